//! The blocks of commands in a document, and who runs them.

/// What is to be done with a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Way {
    /// These hosts run it, one after the other; what it prints is kept under a name.
    Run { hosts: Vec<String>, prints: Option<String> },
    /// Nobody runs it, for a reason that stands there.
    NotRun,
}

/// A block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    pub way: Way,
    pub commands: Vec<String>,
    /// Of its first command, from 1.
    pub line: usize,
}

/// The blocks of commands of a document. One that nobody has said anything of fails the test.
pub fn blocks_of(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    for (at, _) in lines.iter().enumerate().filter(|(_, line)| line.trim() == "```sh") {
        let inside = lines[at + 1..].iter().take_while(|line| line.trim() != "```");
        let remark = lines[..at].last().copied().unwrap_or_default();
        let way =
            way_of(remark).unwrap_or_else(|| panic!("line {}: who runs this block? {remark:?}", at + 1));
        blocks.push(Block { way, commands: commands_of(inside.copied()), line: at + 2 });
    }
    blocks
}

fn way_of(remark: &str) -> Option<Way> {
    let said = remark.trim().strip_prefix("<!--")?.strip_suffix("-->")?.trim();
    if let Some(reason) = said.strip_prefix("not run:") {
        return (!reason.trim().is_empty()).then_some(Way::NotRun);
    }
    let (hosts, prints) = match said.strip_prefix("run:")?.split_once("; prints ") {
        Some((hosts, name)) => (hosts, Some(name.trim().to_owned())),
        None => (said.strip_prefix("run:")?, None),
    };
    let hosts: Vec<String> = hosts.split_whitespace().map(str::to_owned).collect();
    (!hosts.is_empty()).then_some(Way::Run { hosts, prints })
}

/// One command after the other: what a shell would wait for before it shows its prompt again.
fn commands_of<'t>(lines: impl Iterator<Item = &'t str>) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut open: Option<(String, Option<String>)> = None;
    for line in lines {
        let (text, until) = match open.take() {
            None => (
                line.to_owned(),
                line.split_once("<<").map(|(_, end)| end.trim_matches([' ', '\'']).to_owned()),
            ),
            Some((text, until)) => (format!("{text}\n{line}"), until),
        };
        let goes_on = match &until {
            Some(end) => line.trim() != end,
            None => line.ends_with('\\'),
        };
        if goes_on {
            open = Some((text, until));
        } else if !text.trim().is_empty() {
            commands.push(text);
        }
    }
    assert!(open.is_none(), "a command without its end: {open:?}");
    commands
}

#[test]
fn blocks_are_read_as_a_shell_reads_them() {
    let text = "text\n<!-- run: a b; prints KEY -->\n```sh\none\ntwo \\\n  more\n\ncat > f << EOF\nx\n\ny\nEOF\n```\n\n\
                <!-- not run: it takes hours -->\n```sh\nlong\n```\n```toml\nx = 1\n```\n";
    let blocks = blocks_of(text);
    let hosts = ["a", "b"].map(str::to_owned).to_vec();
    assert_eq!(blocks[0].way, Way::Run { hosts, prints: Some("KEY".to_owned()) });
    assert_eq!(blocks[0].commands, ["one", "two \\\n  more", "cat > f << EOF\nx\n\ny\nEOF"]);
    assert_eq!((&blocks[1].way, blocks[1].line, blocks.len()), (&Way::NotRun, 17, 2));
    for remark in ["", "text", "<!-- not run: -->", "<!-- run: -->"] {
        assert_eq!(way_of(remark), None, "{remark:?}");
    }
}
