//! StorPortInitializePerfOpts and StorPortGetStartIoPerfParams: which optimizations a miniport chose, and what follows
//! from that.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportinitializeperfopts>,
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/ns-storport-_perf_configuration_data>:
//!
//! - DPC redirection: a request is finished on the processor that it came to the port driver on, or with CURRENT_CPU on the
//!   one that the miniport completes it on;
//! - more than one concurrent channel: HwStorStartIo is called without the StartIo lock, for one request a channel at once.
//!   A request's channel is that of the processor that it came on;
//! - message ranges and locality: each request has the message whose processor is its own, and the miniport is told the
//!   processors of the messages;
//! - completion during StartIo leaves the port driver free to adjust the redirection. It does not: nothing may depend on it;
//! - what version 5 adds, requests without a list of their pages, is not offered.
//!
//! The values of the flags, and the version that each came with, are those of ReactOS's `storport.h`.

use super::abi::*;
use super::adapter::Adapter;
use super::interrupt;
use super::request::Request;
use crate::ke::abi::GroupAffinity;
use crate::platform::platform;
use core::mem::offset_of;
use core::ptr;

const DPC_REDIRECTION: u32 = 0x01;
const CONCURRENT_CHANNELS: u32 = 0x02;
const INTERRUPT_MESSAGE_RANGES: u32 = 0x04;
const ADV_CONFIG_LOCALITY: u32 = 0x08;
const OPTIMIZE_FOR_COMPLETION_DURING_STARTIO: u32 = 0x10;
const DPC_REDIRECTION_CURRENT_CPU: u32 = 0x20;
/// What each version of the structure knows, and the bytes that it has at least.
const VERSIONS: [(u32, u32, usize); 4] = [
    (1, 0x03, offset_of!(PerfConfigurationData, device_node)),
    (2, 0x07, offset_of!(PerfConfigurationData, device_node)),
    (3, 0x1f, size_of::<PerfConfigurationData>()),
    (4, 0x3f, size_of::<PerfConfigurationData>()),
];
/// A choice, and those that it needs.
const NEEDS: [(u32, u32); 4] = [
    (INTERRUPT_MESSAGE_RANGES, DPC_REDIRECTION),
    (ADV_CONFIG_LOCALITY, INTERRUPT_MESSAGE_RANGES | DPC_REDIRECTION),
    (OPTIMIZE_FOR_COMPLETION_DURING_STARTIO, DPC_REDIRECTION),
    (DPC_REDIRECTION_CURRENT_CPU, DPC_REDIRECTION),
];

/// What an adapter's miniport chose.
#[derive(Clone, Copy, Default)]
pub struct Performance {
    /// HwStorInitialize or HwStorPassiveInitialize runs: only then a miniport chooses.
    pub open: bool,
    flags: u32,
    channels: u32,
    messages: (u32, u32),
}

impl Performance {
    /// Nothing is chosen, and may be now.
    pub fn opened() -> Self {
        Self { open: true, ..Self::default() }
    }

    /// The channel of a request that came from a processor; `None`: there are no channels.
    pub fn channel(&self, from: u32) -> Option<u32> {
        (self.flags & CONCURRENT_CHANNELS != 0 && self.channels > 1).then(|| from % self.channels)
    }

    /// The processor that finishes a request which came from one; `None`: any. Any IRQL.
    pub fn finisher(&self, from: u32) -> Option<u32> {
        match self.flags & (DPC_REDIRECTION | DPC_REDIRECTION_CURRENT_CPU) {
            0 => None,
            DPC_REDIRECTION => Some(from),
            _ => Some(platform().current_processor()),
        }
    }
}

/// StorPortInitializePerfOpts. IRQL <= DIRQL.
///
/// # Safety
/// The structure is as long as its size says, and with advanced locality has an affinity for each message of its range.
pub unsafe fn choose(adapter: &Adapter, query: bool, data: *mut PerfConfigurationData) -> u32 {
    if data.is_null() {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    // SAFETY: the caller's promise.
    unsafe {
        let (version, size) = ((*data).version, (*data).size as usize);
        let targets = interrupt::targets(adapter);
        let Some(&(_, known, _)) = VERSIONS.iter().rev().find(|(v, _, bytes)| *v <= version && *bytes <= size) else {
            return STOR_STATUS_UNSUCCESSFUL;
        };
        if !adapter.state.lock().performance.open {
            return STOR_STATUS_UNSUCCESSFUL;
        }
        // Ranges are for those that have messages.
        let ranges = INTERRUPT_MESSAGE_RANGES | ADV_CONFIG_LOCALITY;
        let offered = known & if targets.is_empty() { !ranges } else { u32::MAX };
        if query {
            (*data).flags = offered;
            return STOR_STATUS_SUCCESS;
        }
        let flags = (*data).flags;
        if flags & !offered != 0 || NEEDS.iter().any(|(choice, needs)| flags & choice != 0 && flags & needs != *needs) {
            return STOR_STATUS_UNSUCCESSFUL;
        }
        let messages = ((*data).first_redirection_message, (*data).last_redirection_message);
        if flags & INTERRUPT_MESSAGE_RANGES != 0 && (messages.0 > messages.1 || messages.1 as usize >= targets.len()) {
            return STOR_STATUS_INVALID_PARAMETER;
        }
        if flags & ADV_CONFIG_LOCALITY != 0 {
            let places = (*data).message_targets.cast::<GroupAffinity>();
            if places.is_null() {
                return STOR_STATUS_INVALID_PARAMETER;
            }
            (*data).device_node = 0;
            for message in messages.0..=messages.1 {
                let affinity = GroupAffinity { mask: targets[message as usize], group: 0, reserved: [0; 3] };
                ptr::write(places.add((message - messages.0) as usize), affinity);
            }
        }
        adapter.state.lock().performance =
            Performance { open: true, flags, channels: (*data).concurrent_channels, messages };
    }
    STOR_STATUS_SUCCESS
}

/// StorPortGetStartIoPerfParams: the message whose processor is the request's, or the range's in turn, and its channel.
/// The caller need set no more than the size. IRQL <= DISPATCH_LEVEL.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportgetstartioperfparams>
pub fn parameters(adapter: &Adapter, request: &Request, out: &mut StartIoPerformanceParameters) -> u32 {
    if (out.size as usize) < size_of::<StartIoPerformanceParameters>() {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    let chosen = adapter.state.lock().performance;
    let processor = request.processor;
    (out.version, out.message_number, out.channel_number) = (1, 0, 0);
    if chosen.flags & INTERRUPT_MESSAGE_RANGES != 0 {
        let (first, last) = chosen.messages;
        let targets = interrupt::targets(adapter);
        let own = (first..=last).find(|n| targets.get(*n as usize) == Some(&(1 << processor)));
        out.message_number = own.unwrap_or(first + processor % (last - first + 1));
    }
    out.channel_number = chosen.channel(processor).unwrap_or(0);
    STOR_STATUS_SUCCESS
}
