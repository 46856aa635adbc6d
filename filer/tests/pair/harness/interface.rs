//! A network interface of a test's own.

use super::process::run;
use std::process::Command;

/// One end of a wire, removed at the end of the test.
pub struct Interface(String);

impl Interface {
    /// Makes one whose name begins so.
    pub fn new(beginning: &str) -> Interface {
        let interface = Interface(format!("{beginning}{}", std::process::id()));
        interface.add();
        interface
    }

    pub fn add(&self) {
        run("ip", &["link", "add", &self.0, "type", "veth", "peer", "name", &format!("{}p", self.0)]);
        run("ip", &["link", "set", &self.0, "up"]);
    }

    pub fn delete(&self) {
        run("ip", &["link", "del", &self.0]);
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    /// The section that puts a floating address on it.
    pub fn carries(&self, address: &str) -> String {
        format!("[volume.floating_ip]\naddress = \"{address}\"\ninterface = \"{}\"\n", self.0)
    }

    pub fn has(&self, address: &str) -> bool {
        run("ip", &["-oneline", "address", "show", "dev", &self.0]).contains(&format!(" {address} "))
    }

    /// Does `what` ("add", "del") with an address, as an operator may.
    pub fn change(&self, what: &str, address: &str) {
        run("ip", &["address", what, address, "dev", &self.0]);
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        let _gone = Command::new("ip").args(["link", "del", &self.0]).output();
    }
}
