//! Whether what the volumes name lies in each other once links are followed. As it is written in the file it does not.

use super::Preflight;
use crate::cli::exit::ExitCode;
use crate::cli::paths::{resolved, resolved_but_name};
use config::{BASE_KIND, NodeConfig, overlaps, salvage_is_endangered};
use std::path::{Path, PathBuf};

/// A tree or a file that nothing else may be in.
struct Place<'a> {
    kind: &'static str,
    /// For people.
    what: String,
    path: &'a Path,
    leads_to: PathBuf,
}

impl Place<'_> {
    fn shown(&self) -> String {
        let (what, path) = (&self.what, self.path.display());
        match self.path == self.leads_to {
            true => format!("{what} {path}"),
            false => format!("{what} {path} (which leads to {})", self.leads_to.display()),
        }
    }
}

/// What cannot be followed has been told already.
fn place<'a>(kind: &'static str, volume: &str, path: &'a Path) -> Option<Place<'a>> {
    // A mount of ours whose daemon was killed may never answer, and is no link.
    let follow = if fuse_door::is_our_mount(path) { resolved_but_name } else { resolved };
    let leads_to = follow(path).ok()?;
    Some(Place { kind, what: format!("the {kind} of volume {volume}"), path, leads_to })
}

/// Looks at all volumes together.
pub fn check(found: &mut Preflight, config: &NodeConfig) {
    let mut places: Vec<Place<'_>> = Vec::new();
    for volume in &config.volumes {
        let own = [
            (BASE_KIND, Some(&volume.base)),
            ("log", Some(&volume.log.path)),
            ("mount point", volume.fuse.mount.as_ref()),
        ];
        for (kind, path) in own {
            let Some(path) = path else { continue };
            let Some(place) = place(kind, volume.name.as_str(), path) else { continue };
            if let Some(other) = places.iter().find(|other| overlaps(&place.leads_to, &other.leads_to)) {
                let what = format!("{} and {} lie in each other", place.shown(), other.shown());
                found.add(ExitCode::Config, what, "choose paths that lead to different places");
            }
            places.push(place);
        }
    }
    for volume in &config.volumes {
        let Some(salvage) = volume.chosen_salvage() else { continue };
        let Some(salvage) = place("salvage directory", volume.name.as_str(), &salvage) else { continue };
        let endangers =
            |other: &&Place<'_>| salvage_is_endangered(&salvage.leads_to, other.kind, &other.leads_to);
        if let Some(other) = places.iter().find(endangers) {
            let what = format!("{} and {} lie in each other", salvage.shown(), other.shown());
            let remedy = "choose another `salvage` in [volume.resync], or leave it away: what is kept there must be lost with no \
                          tree and hidden by no mount";
            found.add(ExitCode::Config, what, remedy);
        }
    }
}
