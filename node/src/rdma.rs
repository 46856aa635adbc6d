//! A volume's RDMA device: opened before anything of the volume is changed, kept as long as its log is open.
//!
//! Without the cargo feature `verbs` there is none: [`Rdma`] has no value then, and the configuration refuses the
//! transport. What can go wrong: no library, no device, memory that cannot be registered; each is told with its
//! remedy before the node starts.

use super::NodeError;
use admin_api::status::RdmaStatus;
use config::{TransportKind, VolumeConfig};
use ids::LogMemory;
use rdma_transport::{Acceptor, LinkError, LinkParams, LinkSource, tcp};
use std::sync::Arc;

/// See the module.
#[cfg(feature = "verbs")]
pub(super) struct Rdma(Arc<rdma_transport::verbs::Domain>);

/// See the module.
#[cfg(not(feature = "verbs"))]
pub(super) enum Rdma {}

impl Rdma {
    /// The device that `config` chooses, with the log's ring registered; `None` for another transport.
    pub fn open(config: &VolumeConfig, memory: Arc<dyn LogMemory>) -> Result<Option<Rdma>, NodeError> {
        match config.transport {
            TransportKind::Tcp | TransportKind::Shm => Ok(None),
            TransportKind::Verbs => open(config, memory).map(Some),
        }
    }
}

#[cfg(feature = "verbs")]
fn open(config: &VolumeConfig, memory: Arc<dyn LogMemory>) -> Result<Rdma, NodeError> {
    use config::Persistence as Mode;
    use rdma_transport::verbs::{Domain, Persistence, Settings};
    let rdma = &config.rdma;
    let settings = Settings {
        device: rdma.device.clone(),
        port: rdma.port,
        gid_index: rdma.gid_index,
        traffic_class: rdma.traffic_class,
        persistence: match rdma.persistence {
            Mode::Message => Persistence::Message,
            Mode::Read => Persistence::Read,
            Mode::Flush => Persistence::Flush,
        },
        peer_ddio_off: rdma.ddio_off,
    };
    let domain = Domain::open(&settings, memory)
        .map_err(|error| NodeError::Rdma { volume: config.name.to_string(), source: error.into() })?;
    let info = domain.describe();
    tracing::info!(
        volume = %config.name, device = info.device, port = info.port, gid = info.gid, mtu = info.mtu_bytes,
        persistence = %info.persistence, fencing = %info.fencing, "RDMA device opened"
    );
    Ok(Rdma(domain))
}

#[cfg(feature = "verbs")]
impl Rdma {
    /// What is used.
    pub fn status(&self) -> RdmaStatus {
        let info = self.0.describe();
        RdmaStatus {
            device: info.device,
            port: info.port,
            gid_index: info.gid_index,
            gid: info.gid,
            link_layer: info.link_layer.to_string(),
            mtu_bytes: info.mtu_bytes,
            fencing: info.fencing.to_string(),
        }
    }

    /// Lets the partner in through the node's listener.
    pub fn register(&self, listener: &tcp::Listener, params: LinkParams) -> Result<Acceptor, LinkError> {
        rdma_transport::verbs::register(listener, params, self.0.clone())
    }

    /// Connects to the partner's listener.
    pub fn connector(&self, address: String) -> Box<dyn LinkSource> {
        let domain = self.0.clone();
        Box::new(rdma_transport::Connector(move |params: &LinkParams, _| {
            rdma_transport::verbs::connect(&address, params, domain.clone())
        }))
    }
}

#[cfg(not(feature = "verbs"))]
fn open(config: &VolumeConfig, _memory: Arc<dyn LogMemory>) -> Result<Rdma, NodeError> {
    let why = "this program was built without RDMA (cargo feature `verbs`)".to_owned();
    Err(NodeError::Pair { volume: config.name.to_string(), why })
}

#[cfg(not(feature = "verbs"))]
impl Rdma {
    pub fn status(&self) -> RdmaStatus {
        match *self {}
    }

    pub fn register(&self, _listener: &tcp::Listener, _params: LinkParams) -> Result<Acceptor, LinkError> {
        match *self {}
    }

    pub fn connector(&self, _address: String) -> Box<dyn LinkSource> {
        match *self {}
    }
}
