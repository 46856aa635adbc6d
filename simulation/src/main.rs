//! Runs simulated pairs: `simulation --seeds 2000`, or one of them again with `--seed S --trace`.
//!
//! The last line counts: "1999 passed, 1 failed". Each failure is shortened and told with the command that shows it
//! again. What happened in all runs together is counted before that, so that one sees what was tried.

use clap::Parser;
use runtime::canary::Canary;
use runtime::marks::Marks;
use simulation::plan::Plan;
use simulation::{finding, seeds};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Failures that are shortened; more would only cost time.
const MAX_SHORTENED: usize = 3;

#[derive(Parser)]
#[command(about = "Whole pairs in a deterministic simulation")]
struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 100, conflicts_with = "seed")]
    seeds: u64,
    /// The first one
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Only this one
    #[arg(long)]
    seed: Option<u64>,
    /// Only these of the seed's faults, by their places in its schedule
    #[arg(long, requires = "seed")]
    keep: Option<String>,
    /// Plant this bug
    #[arg(long, value_parser = canary)]
    canary: Option<Canary>,
    /// Show what happens; RUST_LOG chooses what the nodes say
    #[arg(long, requires = "seed")]
    trace: bool,
}

fn canary(name: &str) -> Result<Canary, String> {
    let known: Vec<String> = Canary::ALL.iter().map(|canary| format!("{canary:?}")).collect();
    let found = Canary::ALL.into_iter().find(|canary| format!("{canary:?}") == name);
    found.ok_or_else(|| format!("none of {}", known.join(", ")))
}

/// Virtual time, node and task before what a node says.
struct VirtualTime;

impl tracing_subscriber::fmt::time::FormatTime for VirtualTime {
    fn format_time(&self, writer: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        match scheduler::whereabouts() {
            Some((at, node, task)) => write!(writer, "{:12.6} {node}/{task}", at.as_secs_f64()),
            None => writer.write_str("-"),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let passed = match arguments.seed {
        Some(seed) => one(&arguments, seed),
        None => many(&arguments),
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(arguments: &Arguments, seed: u64) -> bool {
    if arguments.trace {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env();
        let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
        let printer = tracing_subscriber::fmt().with_env_filter(filter).with_timer(VirtualTime);
        printer.with_ansi(false).with_writer(std::io::stdout).init();
    }
    let plan = Plan::of(seed);
    let faults = match &arguments.keep {
        Some(places) => {
            let places: Vec<usize> =
                places.split(',').filter_map(|place| place.trim().parse().ok()).collect();
            finding::kept(&plan, &places)
        }
        None => plan.faults.clone(),
    };
    println!("{plan:?}");
    let begun = Instant::now();
    let report = finding::run(&plan, &faults, arguments.canary, arguments.trace);
    show(&report.marks);
    let (virtual_s, real_s) = (report.virtual_time.as_secs_f64(), begun.elapsed().as_secs_f64());
    let (switches, hash) = (report.switches, report.trace_hash);
    println!("{virtual_s:.1} s in {real_s:.2} s, {switches} turns, trace {hash:016x}");
    match &report.failure {
        None => println!("seed {seed} passed"),
        Some(failure) => println!("seed {seed} FAILED: {failure}"),
    }
    report.failure.is_none()
}

#[derive(Default)]
struct Together {
    marks: Marks,
    virtual_time: Duration,
    passed: u64,
    failed: Vec<(u64, String)>,
}

fn many(arguments: &Arguments) -> bool {
    let begun = Instant::now();
    let together = Mutex::new(Together::default());
    let run = |seed| {
        let plan = Plan::of(seed);
        let report = finding::run(&plan, &plan.faults, arguments.canary, false);
        (report.failure, report.virtual_time, report.marks)
    };
    seeds::all(arguments.first, arguments.seeds, run, |seed, (failure, virtual_time, marks)| {
        let mut together = together.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        together.virtual_time += virtual_time;
        marks.into_iter().for_each(|(what, count)| *together.marks.entry(what).or_default() += count);
        match failure {
            None => together.passed += 1,
            Some(failure) => {
                println!("FAILED seed {seed}: {failure}");
                together.failed.push((seed, failure));
            }
        }
    });
    let Together { marks, virtual_time, passed, failed } =
        together.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let real = begun.elapsed();
    for (seed, failure) in failed.iter().take(MAX_SHORTENED) {
        println!("{}\n", finding::shorten(*seed, arguments.canary, failure.clone()));
    }
    show(&marks);
    let (virtual_s, real_s) = (virtual_time.as_secs_f64(), real.as_secs_f64());
    println!("{virtual_s:.0} s in {real_s:.0} s: {:.0} times as fast", virtual_s / real_s);
    println!("{passed} passed, {} failed", failed.len());
    failed.is_empty()
}

fn show(marks: &Marks) {
    for (what, count) in marks {
        println!("{count:>10} {what}");
    }
}
