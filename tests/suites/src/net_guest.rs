//! What a case may do inside with network adapters: the NDIS adapters that Windows has, raw frames with what stands out of
//! band, and a TCP/IP endpoint on an adapter.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use nt::ndis::adapter::{Adapter, State, adapters};
use nt::ndis::oid_abi::{MEDIA_CONNECTED, Statistics, oid};
use nt::net::{Client, Stack, StackConfig};
use nt::pnp::{self, NodeId};
use nt::reg;

use crate::case::{Ctx, Failure};
use crate::fail;

pub use nt::ndis::flow::{Metadata, Received};
pub use nt::ndis::oid::Answer;
pub use nt::ndis::oid_abi::filter;
pub use nt::net::stack::{NetError, Tcp, Udp};
pub use nt::net::{Layout, Outgoing, Packet, Sending};
pub use smoltcp::wire::IpAddress;

/// Milliseconds that Windows gets to find an adapter.
const FIND_MS: u64 = 30_000;

/// A network adapter as Windows sees it.
pub struct Nic {
    adapter: Arc<Adapter>,
    index: u32,
    node: NodeId,
    instance: alloc::string::String,
}

/// The adapter of an interface: its device's instance path ends with the interface's number.
fn look(index: u32) -> Option<Nic> {
    let end = format!(r"\{index}");
    adapters().into_iter().filter(|adapter| adapter.state() == State::Running).find_map(|adapter| {
        let node = pnp::node_of(adapter.pdo)?;
        let instance = pnp::tree().into_iter().find(|info| info.id == node)?.instance;
        (instance.contains("VIF") && instance.ends_with(end.as_str())).then_some(Nic { adapter, index, node, instance })
    })
}

/// The host's IPv4 address at the other end of an interface.
pub fn host_v4(index: u32) -> IpAddress {
    IpAddress::v4(10, 77, index as u8, 1)
}

/// The host's IPv6 address at the other end of an interface.
pub fn host_v6(index: u32) -> IpAddress {
    IpAddress::v6(0xfd77, index as u16, 0, 0, 0, 0, 0, 1)
}

impl Nic {
    /// Waits until Windows has an adapter for the interface and it runs.
    ///
    /// # Errors
    /// It has none within half a minute.
    pub fn find(ctx: &Ctx<'_>, index: u32) -> Result<Self, Failure> {
        Self::find_within(ctx, index, FIND_MS)
    }

    /// As [`Nic::find`], within `ms`.
    ///
    /// # Errors
    /// Windows has no such adapter.
    pub fn find_within(ctx: &Ctx<'_>, index: u32, ms: u64) -> Result<Self, Failure> {
        let mut waited = 0;
        loop {
            if let Some(nic) = look(index) {
                return Ok(nic);
            }
            if waited >= ms {
                let seen: Vec<_> = adapters().iter().map(|a| format!("{} {:?}", a.instance, a.state())).collect();
                fail!("{ms} ms have passed and Windows has no adapter for vif {index}; it has {seen:?}");
            }
            ctx.world.sleep_ms(20);
            waited += 20;
        }
    }

    /// Whether Windows has a running adapter for the interface now.
    pub fn present(index: u32) -> bool {
        look(index).is_some()
    }

    /// The port's adapter: state, figures, attributes, OIDs.
    pub fn adapter(&self) -> &Arc<Adapter> {
        &self.adapter
    }

    /// The address that it uses.
    pub fn mac(&self) -> [u8; 6] {
        self.adapter.about.lock().current_address
    }

    /// Bytes of a frame behind its Ethernet header.
    pub fn mtu(&self) -> usize {
        self.adapter.about.lock().mtu as usize
    }

    /// Whether the miniport says that the cable is in.
    pub fn link_up(&self) -> bool {
        self.adapter.link().connect == MEDIA_CONNECTED
    }

    /// Waits until the link is up or down.
    ///
    /// # Errors
    /// It is not within `ms`.
    pub fn wait_link(&self, ctx: &Ctx<'_>, up: bool, ms: u64) -> Result<(), Failure> {
        let mut waited = 0;
        while self.link_up() != up {
            if waited >= ms {
                fail!("vif {}: {ms} ms have passed and the link is {:?}", self.index, self.adapter.link());
            }
            ctx.world.sleep_ms(5);
            waited += 5;
        }
        Ok(())
    }

    /// OID_GEN_STATISTICS.
    ///
    /// # Errors
    /// The miniport does not answer it.
    pub fn statistics(&self) -> Result<Statistics, Failure> {
        let answer = self.adapter.query(oid::GEN_STATISTICS, size_of::<Statistics>());
        if !answer.ok() || answer.data.len() < size_of::<Statistics>() {
            fail!("OID_GEN_STATISTICS: status {:#x}, {} bytes", answer.status, answer.data.len());
        }
        let number = |at: usize| u64::from_le_bytes(answer.data[at..at + 8].try_into().unwrap_or_default());
        let mut statistics = Statistics::default();
        for (field, place) in [
            (&mut statistics.in_discards, 8),
            (&mut statistics.in_errors, 16),
            (&mut statistics.in_octets, 24),
            (&mut statistics.in_unicast, 32),
            (&mut statistics.in_multicast, 40),
            (&mut statistics.in_broadcast, 48),
            (&mut statistics.out_octets, 56),
            (&mut statistics.out_unicast, 64),
            (&mut statistics.out_multicast, 72),
            (&mut statistics.out_broadcast, 80),
            (&mut statistics.out_errors, 88),
            (&mut statistics.out_discards, 96),
            (&mut statistics.in_unicast_octets, 104),
            (&mut statistics.in_multicast_octets, 112),
            (&mut statistics.in_broadcast_octets, 120),
            (&mut statistics.out_unicast_octets, 128),
            (&mut statistics.out_multicast_octets, 136),
            (&mut statistics.out_broadcast_octets, 144),
        ] {
            *field = number(place);
        }
        Ok(statistics)
    }

    /// Binds a protocol that sends and receives frames as they are.
    ///
    /// # Errors
    /// The adapter is going.
    pub fn raw(&self) -> Result<Client, Failure> {
        Client::bind(&self.adapter).ok_or_else(|| Failure(format!("vif {}: no protocol can be bound", self.index)))
    }

    /// As [`Nic::raw`], with the packet filter set.
    ///
    /// # Errors
    /// The adapter is going or refuses the filter.
    pub fn raw_filtered(&self, bits: u32) -> Result<Client, Failure> {
        let client = self.raw()?;
        let status = client.set_filter(bits);
        if status != 0 {
            fail!("vif {}: packet filter {bits:#x} is refused with {status:#x}", self.index);
        }
        Ok(client)
    }

    /// How an endpoint of this interface is set up: 10.77.N.2 and fd77:N::2.
    pub fn config(&self, seed: u64) -> StackConfig {
        StackConfig::new([10, 77, self.index as u8, 2], [0xfd77, self.index as u16, 0, 0, 0, 0, 0, 2], seed)
    }

    /// Puts a TCP/IP endpoint on the adapter.
    ///
    /// # Errors
    /// The adapter is going or refuses the packet filter.
    pub fn stack(&self, config: &StackConfig) -> Result<Stack, Failure> {
        Stack::new(&self.adapter, config).ok_or_else(|| Failure(format!("vif {}: no endpoint can be made", self.index)))
    }

    /// The host's IPv4 address at the other end.
    pub fn host_v4(&self) -> IpAddress {
        host_v4(self.index)
    }

    /// The host's IPv6 address at the other end.
    pub fn host_v6(&self) -> IpAddress {
        host_v6(self.index)
    }

    /// Disables and enables the device, as a change of an advanced property does. The adapter is a new one then: find it
    /// again.
    ///
    /// # Errors
    /// The device refuses.
    pub fn restart_device(self) -> Result<(), Failure> {
        let node = self.node;
        drop(self);
        pnp::control::disable(node)
            .map_err(|status| Failure(format!("the adapter cannot be disabled: {status:#x}")))?;
        pnp::control::enable(node).map_err(|status| Failure(format!("the adapter cannot be enabled: {status:#x}")))?;
        pnp::settle();
        Ok(())
    }

    /// Sends the device a power state: true is D0, false D3.
    ///
    /// # Errors
    /// The device is gone or refuses.
    pub fn set_power(&self, up: bool) -> Result<(), Failure> {
        let status = self.adapter.request_power(if up { 1 } else { 4 });
        if status < 0 {
            fail!("vif {}: power is refused with {status:#x}", self.index);
        }
        Ok(())
    }

    /// Sets a keyword in the adapter's software key; it counts from the next start of the device.
    ///
    /// # Errors
    /// The registry refuses it.
    pub fn set_keyword(&self, name: &str, value: &str) -> Result<(), Failure> {
        let set = r"\Registry\Machine\SYSTEM\CurrentControlSet";
        let done = reg::with(|hive| {
            let device = hive.open(None, &format!(r"{set}\Enum\{}", self.instance))?;
            let driver = reg::hive::sz_text(&hive.value(device, "Driver")?.data);
            let key = hive.open(None, &format!(r"{set}\Control\Class\{driver}"))?;
            hive.set_value(key, name, reg::hive::REG_SZ, reg::hive::sz(value), 0)
        });
        done.map_err(|error| Failure(format!("keyword {name}: {error:?}")))
    }
}
