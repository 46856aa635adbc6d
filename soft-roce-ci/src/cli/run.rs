//! `list` and `run`: one line for each scenario, with its time; everything else goes to its logs.

use super::program::Program;
use super::{FAILED, chain_cannot_run};
use anyhow::{Context as _, Result};
use serde::Serialize;
use soft_roce_ci::lab;
use soft_roce_ci::scenario::{Context, Scenario};
use soft_roce_ci::scenarios;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Scenarios that need no program under test.
const WITHOUT_PROGRAM: [&str; 1] = ["boot"];

/// What to run.
#[derive(clap::Args)]
pub struct Arguments {
    /// Names from `list`, or `all`
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// The twinfiler to test [default: a release build, made if it is not up to date]
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// Where the logs go [default: beside cargo's output]
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// Run everything so many times
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Print one JSON object for each scenario and one at the end
    #[arg(long)]
    json: bool,
}

/// Prints what there is.
pub fn list(json: bool) {
    for Scenario { name, about, .. } in scenarios::ALL {
        if json {
            println!("{}", serde_json::json!({ "name": name, "about": about }));
        } else {
            println!("{name:<20} {about}");
        }
    }
}

/// Runs them and gives the exit code.
pub fn run(arguments: &Arguments) -> Result<i32> {
    let chosen = choose(&arguments.names)?;
    lab::make_ready()?;
    let needs_program = chosen.iter().any(|scenario| !WITHOUT_PROGRAM.contains(&scenario.name));
    let program = needs_program.then(|| Program::find(arguments.program.as_deref())).transpose()?;
    let logs = match &arguments.logs {
        Some(logs) => logs.clone(),
        None => lab::cache()?.join("logs"),
    };
    let (mut passed, mut failed) = (0_u32, 0_u32);
    for round in 1..=arguments.repeat {
        let logs = if arguments.repeat == 1 { logs.clone() } else { logs.join(format!("round-{round}")) };
        for scenario in &chosen {
            let logs = logs.join(scenario.name);
            let outcome = run_one(scenario, program.as_ref(), &logs, arguments.json)?;
            *(if outcome.passed { &mut passed } else { &mut failed }) += 1;
        }
    }
    if arguments.json {
        println!("{}", serde_json::json!({ "passed": passed, "failed": failed }));
    } else {
        println!("{passed} passed, {failed} failed");
    }
    Ok(if failed == 0 { 0 } else { FAILED })
}

fn choose(names: &[String]) -> Result<Vec<&'static Scenario>> {
    if names.iter().any(|name| name == "all") {
        return Ok(scenarios::ALL.iter().collect());
    }
    names.iter().map(|name| find(name)).collect()
}

/// The scenario of this name.
pub fn find(name: &str) -> Result<&'static Scenario> {
    let known = || scenarios::ALL.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
    scenarios::ALL
        .iter()
        .find(|scenario| scenario.name == name)
        .ok_or_else(|| super::Usage(format!("there is no scenario {name}; there are: {}", known())).into())
}

/// A scenario's outcome, as it is printed.
#[derive(Serialize)]
struct Outcome<'a> {
    name: &'a str,
    passed: bool,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    logs: &'a Path,
}

/// Runs a scenario. Its failure is an outcome; an error means that no guest can run at all.
fn run_one<'a>(
    scenario: &'a Scenario,
    program: Option<&Program>,
    logs: &'a Path,
    json: bool,
) -> Result<Outcome<'a>> {
    // Logs of an earlier run would be taken for this one's.
    let _ = fs::remove_dir_all(logs);
    fs::create_dir_all(logs).with_context(|| format!("cannot create {}", logs.display()))?;
    if !json {
        print!("{:<20} ", scenario.name);
        let _ = std::io::stdout().flush();
    }
    let started = Instant::now();
    let context = Context::new(program.map(|program| program.path().to_owned()), logs.to_owned());
    let result = (scenario.run)(&context);
    let seconds = started.elapsed().as_secs_f64();
    let error = match result {
        Err(error) if chain_cannot_run(&error) => return Err(error),
        Err(error) => Some(format!("{error:#}")),
        Ok(()) => None,
    };
    if let Some(error) = &error {
        let path = logs.join("failure.txt");
        fs::write(&path, error).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let outcome = Outcome { name: scenario.name, passed: error.is_none(), seconds, error, logs };
    print(&outcome, json)?;
    Ok(outcome)
}

fn print(outcome: &Outcome<'_>, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(outcome).context("cannot encode an outcome")?);
        return Ok(());
    }
    match &outcome.error {
        None => println!("ok      {:6.1} s", outcome.seconds),
        Some(error) => {
            println!("FAILED  {:6.1} s", outcome.seconds);
            for line in error.lines() {
                println!("    {line}");
            }
            println!("    logs: {}", outcome.logs.display());
        }
    }
    Ok(())
}
