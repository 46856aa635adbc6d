//! Where what only this node holds may be kept.

use super::*;

/// [`GOOD`] with a second volume, whose tree comes after the line with the salvage of the first one.
fn with_salvage(salvage: &str) -> String {
    let second = GOOD.split_once("[[volume]]").unwrap().1;
    let second = second
        .replace("\"home\"", "\"mail\"")
        .replace("00112233445566778899aabbccddeeff", "00112233445566778899aabbccddee00")
        .replace("/var/lib/twinfiler/home", "/var/lib/twinfiler/mail")
        .replace("/srv/home", "/srv/mail")
        .replace("10.0.0.9", "10.0.0.10");
    format!("{GOOD}salvage = \"{salvage}\"\n\n[[volume]]{second}")
}

#[test]
fn a_salvage_lies_in_no_tree_that_may_be_replaced() {
    let cases = [
        (
            "/var/lib/twinfiler/home/kept",
            "/home overlaps with the base directory /var/lib/twinfiler/home",
            19,
        ),
        ("/var/lib/twinfiler/home", "/home overlaps with the base directory /var/lib/twinfiler/home", 19),
        // Below it there is a directory of the volume's name.
        ("/var/lib/twinfiler", " is also the base directory /var/lib/twinfiler/home", 19),
        // What is cleared at each start, and names that are the program's.
        ("/var/lib/twinfiler/home/.twinfiler/staging", "overlaps with the base directory", 19),
        // Of a volume that is read later.
        ("/var/lib/twinfiler/mail", "overlaps with the base directory /var/lib/twinfiler/mail", 72),
        ("/var/lib/twinfiler/home.log", "overlaps with the log /var/lib/twinfiler/home.log", 30),
        ("/srv/home/kept", "overlaps with the mount point /srv/home", 34),
        ("/srv/home/.twinfiler/salvage", "overlaps with the mount point /srv/home", 34),
        ("/srv/mail", "overlaps with the mount point /srv/mail", 87),
    ];
    for (salvage, expected, first) in cases {
        let found = problems(&with_salvage(salvage));
        let [problem] = found.as_slice() else { panic!("{salvage}: {found:?}") };
        let begins = format!("67: volume \"home\" [volume.resync]: `salvage`: {salvage}");
        assert!(problem.starts_with(&begins) && problem.contains(expected), "{problem}");
        assert!(problem.contains(&format!("=> line {first} uses it")), "{problem}");
    }
    for salvage in [
        "/var/lib/kept",
        "/var/lib/twinfiler/home-kept",
        "/var/lib/twinfiler/home/.twinfiler/salvage",
        "/var/lib/twinfiler/mail/.twinfiler/salvage",
    ] {
        let config = NodeConfig::parse(&with_salvage(salvage), "f").unwrap();
        let chosen = config.volumes[0].chosen_salvage().unwrap();
        assert_eq!(chosen, std::path::Path::new(salvage).join("home"));
    }
}
