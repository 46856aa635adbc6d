//! `[witness]`: the built-in one by its addresses, or a cluster of etcd.

use super::claims::Claims;
use super::doors::Doors;
use super::section::Section;
use super::units::HumanDuration;
use ::witness::etcd::{EtcdEndpoint, EtcdSettings};
use ::witness::{WitnessConfig, WitnessKeeper};
use rdma_transport::tls::PublicKey;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Most addresses of a witness.
const MAX_WITNESS_ADDRESSES: usize = 8;
const DEFAULT_WITNESS_TIMEOUT: Duration = Duration::from_millis(500);
const DEFAULT_ETCD_PREFIX: &str = "/twinfiler/";

pub(super) fn witness(
    mut section: Section<'_, '_>,
    claims: &mut Claims,
    doors: &Doors,
) -> Option<WitnessConfig> {
    let timeout = section.or("timeout", HumanDuration(DEFAULT_WITNESS_TIMEOUT)).0;
    let mut public_key = None;
    let keeper = match section.table("etcd") {
        Some(etcd) => {
            if let Some(key) = section.optional::<PublicKey>("public_key") {
                section.problem(
                    key.line,
                    "`public_key` beside `etcd`, which has keys of its own",
                    "delete it; write `ca`, `certificate` and `key` below `etcd`",
                );
            }
            if let Some(addresses) = section.optional::<Vec<SocketAddr>>("addresses") {
                section.problem(
                    addresses.line,
                    "`addresses` beside `etcd`: there is one witness",
                    "delete one of the two",
                );
            }
            self::etcd(etcd, doors).map(WitnessKeeper::Etcd)
        }
        None => {
            let addresses = built_in(&mut section, claims);
            for address in addresses.iter().flatten() {
                doors.check_address(&section, section.line(), "`addresses`", *address);
            }
            public_key = doors.key(&mut section);
            addresses.map(WitnessKeeper::BuiltIn)
        }
    };
    section.finish();
    Some(WitnessConfig { keeper: keeper?, public_key, timeout })
}

fn built_in(section: &mut Section<'_, '_>, claims: &mut Claims) -> Option<Vec<SocketAddr>> {
    let addresses = section.required::<Vec<SocketAddr>>("addresses")?;
    for address in &addresses.value {
        claims.claim(section, "address", address.to_string(), addresses.line);
    }
    if addresses.value.len() > MAX_WITNESS_ADDRESSES {
        section.problem(
            addresses.line,
            format!("`addresses`: more than {MAX_WITNESS_ADDRESSES}"),
            "they are addresses of one and the same witness: name one or two",
        );
    }
    Some(addresses.value)
}

fn etcd(mut section: Section<'_, '_>, doors: &Doors) -> Option<EtcdSettings> {
    let endpoints = section.required::<Vec<EtcdEndpoint>>("endpoints");
    let prefix = section.or("prefix", DEFAULT_ETCD_PREFIX.to_owned());
    let ca = section.optional::<PathBuf>("ca");
    let certificate = section.optional::<PathBuf>("certificate");
    let key = section.optional::<PathBuf>("key");
    let plaintext = section.optional::<bool>("plaintext").is_some_and(|located| located.value);
    if let Some(endpoints) = &endpoints {
        if endpoints.value.len() > MAX_WITNESS_ADDRESSES {
            section.problem(
                endpoints.line,
                format!("`endpoints`: more than {MAX_WITNESS_ADDRESSES}"),
                "name the members of one cluster",
            );
        }
        let open = endpoints.value.iter().filter(|endpoint| !endpoint.https);
        for endpoint in open.filter(|endpoint| !plaintext && doors.is_open_to_network(endpoint.address)) {
            section.problem(
                endpoints.line,
                format!("`endpoints`: http://{} is reached over a network in the clear", endpoint.address),
                "write `https://` and `ca`, or `plaintext = true` here: then everybody in that network can decide who serves",
            );
        }
        let https = endpoints.value.iter().any(|endpoint| endpoint.https);
        match (https, &ca) {
            (true, None) => section.problem(
                endpoints.line,
                "`ca` is missing",
                "name the certificate of the authority that the members' certificates come from: `ca = \"/etc/twinfiler/etcd-ca.pem\"`",
            ),
            (false, Some(ca)) => section.problem(
                ca.line,
                "`ca` without an `https://` endpoint",
                "write `https://` in `endpoints`, or delete it",
            ),
            _ => {}
        }
    }
    if certificate.is_some() != key.is_some() {
        let line = certificate.as_ref().or(key.as_ref()).map_or(section.line(), |given| given.line);
        section.problem(line, "`certificate` and `key` belong together", "write both, or none");
    }
    section.finish();
    Some(EtcdSettings {
        endpoints: endpoints?.value,
        prefix,
        ca: ca.map(|ca| ca.value),
        client: certificate.zip(key).map(|(certificate, key)| (certificate.value, key.value)),
    })
}
