//! The oracle against a filesystem that is known to be right, and against planted damage.

use super::model::Model;
use super::operation::{Operation, choose};
use super::perform::perform;
use super::verify::{differences, resolve};
use crate::random::Random;
use std::fs;
use std::os::unix::fs::FileExt;

/// A directory on whatever holds temporary files: `user.` xattrs must work there.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn grown(root: &std::path::Path, seed: u64, operations: usize) -> Model {
    super::perform::clear_umask();
    let mut random = Random::new(seed);
    let mut model = Model::default();
    for _ in 0..operations {
        let operation = choose(&mut random, &model);
        perform(root, &operation).unwrap_or_else(|error| panic!("{operation:?}: {error}"));
        operation.apply(&mut model);
    }
    model
}

#[test]
fn every_operation_does_to_the_model_what_the_system_does_to_the_tree() {
    for seed in 0..6 {
        let dir = directory();
        let model = grown(dir.path(), seed, 600);
        assert_eq!(differences(dir.path(), &model).unwrap(), Vec::<String>::new(), "seed {seed}");
        assert!(model.len() > 10);
    }
}

#[test]
fn planted_damage_is_found() {
    let dir = directory();
    let model = grown(dir.path(), 1, 800);
    let path = |wanted: fn(&super::model::Object) -> bool| {
        let found = model.entries().find(|(_, _, object)| wanted(object)).map(|(path, ..)| path.to_owned());
        dir.path().join(found.unwrap())
    };
    let file = path(|object| object.content().is_some_and(|bytes| bytes.len() > 100));
    let kept = fs::read(&file).unwrap();
    let handle = fs::OpenOptions::new().write(true).open(&file).unwrap();
    handle.write_at(&[!kept[50]], 50).unwrap();
    assert!(differences(dir.path(), &model).unwrap().iter().any(|line| line.contains("first at 50")));
    handle.write_at(&[kept[50]], 50).unwrap();
    // The modification time may be one that the model knows.
    fs::write(dir.path().join("stranger"), b"").unwrap();
    assert!(differences(dir.path(), &model).unwrap().iter().any(|line| line.contains("never acknowledged")));
    fs::remove_file(dir.path().join("stranger")).unwrap();
    fs::remove_file(&file).unwrap();
    assert!(differences(dir.path(), &model).unwrap().iter().any(|line| line.contains("missing")));
}

#[test]
fn an_operation_in_doubt_may_have_happened_or_not_but_not_otherwise() {
    let dir = directory();
    let mut model = grown(dir.path(), 2, 50);
    let doubtful = Operation::Create { path: "doubtful".into(), mode: 0o644 };
    assert!(resolve(dir.path(), &mut model, Some(&doubtful)).unwrap().is_ok());
    assert!(model.get("doubtful").is_none());
    perform(dir.path(), &doubtful).unwrap();
    assert!(resolve(dir.path(), &mut model, None).unwrap().is_err());
    assert!(resolve(dir.path(), &mut model, Some(&doubtful)).unwrap().is_ok());
    assert!(model.get("doubtful").is_some());
}

#[test]
fn an_interrupted_write_may_show_a_prefix_that_ends_at_a_page() {
    let dir = directory();
    let mut model = grown(dir.path(), 3, 0);
    let create = Operation::Create { path: "file".into(), mode: 0o644 };
    perform(dir.path(), &create).unwrap();
    create.apply(&mut model);
    let whole = Operation::Write { path: "file".into(), offset: 100, len: 20_000, seed: 9 };
    let part = |len| Operation::Write { path: "file".into(), offset: 100, len, seed: 9 };
    perform(dir.path(), &part(8192 - 100)).unwrap();
    assert!(resolve(dir.path(), &mut model.clone(), Some(&whole)).unwrap().is_ok());
    perform(dir.path(), &part(8192)).unwrap();
    assert!(resolve(dir.path(), &mut model, Some(&whole)).unwrap().is_err());
}

#[test]
fn an_interrupted_append_may_end_at_a_page_too() {
    let dir = directory();
    let mut model = grown(dir.path(), 3, 0);
    for done in [
        Operation::Create { path: "file".into(), mode: 0o644 },
        Operation::Append { path: "file".into(), len: 3000, seed: 8 },
    ] {
        perform(dir.path(), &done).unwrap();
        done.apply(&mut model);
    }
    let whole = Operation::Append { path: "file".into(), len: 3000, seed: 9 };
    perform(dir.path(), &Operation::Append { path: "file".into(), len: 4096 - 3000, seed: 9 }).unwrap();
    assert!(resolve(dir.path(), &mut model.clone(), Some(&whole)).unwrap().is_ok());
    perform(dir.path(), &Operation::Append { path: "file".into(), len: 1, seed: 9 }).unwrap();
    assert!(resolve(dir.path(), &mut model, Some(&whole)).unwrap().is_err());
}
