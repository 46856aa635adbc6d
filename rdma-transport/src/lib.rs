//! rdma-transport
