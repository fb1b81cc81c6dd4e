//! Hypercalls, event channels and the physical map, as a guest sees them.

mod guest;

use guest::*;
use xen_model::{Config, CpuVendor, Fault, GuestErrorKind, Machine, PortState, layout};

fn machine_has(guest: &Guest, gfn: u64) -> bool {
    guest.machine.mfn_of(gfn).is_some()
}

#[test]
fn cpuid_leaves_move_behind_viridian() {
    for (viridian, base) in [(false, 0x4000_0000), (true, 0x4000_0100)] {
        let guest = Guest::new(Config { viridian, vcpus: 4, ..Config::default() });
        let [max, b, c, d] = guest.xen.cpuid(0, base, 0).expect("a hypervisor leaf");
        assert_eq!(max, base + 5);
        assert_eq!([b, c, d].map(u32::to_le_bytes).concat(), b"XenVMMXenVMM");
        assert_eq!(guest.xen.cpuid(0, base + 1, 0).expect("version")[0], 0x0004_0011);
        let [flags, vcpu, domid, _] = guest.xen.cpuid(3, base + 4, 0).expect("HVM leaf");
        assert_eq!((flags & 0x58, vcpu, domid), (0x58, 3, 1));
    }
    let guest = Guest::new(Config { cpu_vendor: CpuVendor::Amd, ..Config::default() });
    let [_, b, c, d] = guest.xen.cpuid(0, 0, 0).expect("the vendor leaf");
    assert_eq!([b, d, c].map(u32::to_le_bytes).concat(), b"AuthenticAMD");
}

#[test]
fn balloon_and_physmap() {
    let mut guest = Guest::new(Config::default());
    assert_eq!(guest.reservation(1, &[FREE, FREE + 1]), 2);
    assert!(!machine_has(&guest, FREE));
    assert_eq!(guest.reservation(1, &[FREE]), 0, "nothing is there any more");
    assert_eq!(guest.reservation(6, &[FREE]), 1);
    assert!(machine_has(&guest, FREE));
    // A frame of Xen's has one place: showing it elsewhere takes it from where it was.
    assert_eq!(guest.add_to_physmap(0, 0, FREE + 1), 0);
    assert!(!machine_has(&guest, SHARED_INFO));
    assert_eq!(guest.add_to_physmap(1, 63, FREE + 2), 0);
    assert_eq!(guest.add_to_physmap(1, 64, FREE + 2), -22, "beyond the largest grant table");
    assert_eq!(guest.add_to_physmap(9, 0, FREE + 2), -22);
    assert!(guest.xen.guest_errors().is_empty());
    assert_eq!(guest.reservation(6, &[FREE]), 1);
    assert_eq!(guest.xen.guest_errors()[0].kind, GuestErrorKind::PopulatedTwice);
}

#[test]
fn bad_pointers_and_numbers() {
    let mut guest = Guest::new(Config::default());
    assert_eq!(guest.xen.hypercall(0, EVENT_CHANNEL_OP, [6, 0xffff_f000, 0, 0, 0]), -14);
    assert_eq!(guest.xen.hypercall(0, 55, [0; 5]), -38);
    assert_eq!(guest.event_op(99, &[0]), -38);
    assert_eq!(guest.event_op(4, &[77]), -22);
    assert_eq!(guest.event_op(3, &[77]), -22);
    assert_eq!(guest.set_hvm_param(1, 5), -1, "the store page is not the guest's to move");
    assert_eq!(guest.set_hvm_param(39, 5), -22);
}

#[test]
fn arguments_may_cross_pages() {
    let mut guest = Guest::new(Config::default());
    let at = (FREE << 12) + 4096 - 8;
    let mut arg = [0; 16];
    arg[..2].copy_from_slice(&DOMID_SELF.to_le_bytes());
    arg[4] = 1;
    guest.write(at, &arg);
    assert_eq!(guest.xen.hypercall(0, HVM_OP, [1, at, 0, 0, 0]), 0);
    assert_eq!(guest.read_u64(at + 8), layout::STORE_GFN);
}

#[test]
fn two_level_delivery_by_vector() {
    let mut guest = Guest::new(Config { vcpus: 2, ..Config::default() });
    let info = SHARED_INFO << 12;
    assert_eq!(guest.call(0, HVM_OP, 23, &[1, 0, 0, 0, 0x55, 0, 0, 0], 0).0, 0);
    assert_eq!(guest.call(0, HVM_OP, 23, &[1, 0, 0, 0, 0xf, 0, 0, 0], 0).0, -22);
    assert_eq!(guest.machine.take_interrupts().vectors, [(1, 0x55)], "Xen asserts a new vector at once");
    // An IPI port on virtual CPU 1.
    let (result, out) = guest.call(0, EVENT_CHANNEL_OP, 7, &[1, 0, 0, 0, 0, 0, 0, 0], 0);
    let port = u32::from_le_bytes(out[4..].try_into().expect("four bytes"));
    assert_eq!(result, 0);
    guest.send(port);
    guest.send(port);
    assert_eq!(guest.machine.take_interrupts().vectors, [(1, 0x55)], "pending already: no second upcall");
    let vcpu = info + 64;
    assert_eq!(guest.read_u32(vcpu) & 0xff, 1);
    assert_eq!(guest.read_u64(vcpu + 8), 1);
    assert_eq!(guest.read_u64(info + 2048), 1 << port);
    // Masked: pending alone. Unmasking delivers it.
    guest.write(vcpu, &[0; 16]);
    guest.write(info + 2048, &[0; 8]);
    guest.write(info + 2560, &(1u64 << port).to_le_bytes());
    guest.send(port);
    assert_eq!(guest.read_u64(vcpu + 8), 0);
    assert!(guest.machine.take_interrupts().vectors.is_empty());
    assert_eq!(guest.event_op(9, &[port]), 0);
    assert_eq!(guest.read_u64(vcpu + 8), 1);
    assert_eq!(guest.machine.take_interrupts().vectors, [(1, 0x55)]);
}

#[test]
fn the_interrupt_line_follows_upcall_pending() {
    let mut guest = Guest::new(Config::default());
    let gsi = layout::pci_intx_gsi(layout::PLATFORM_DEVICE, 0);
    assert_eq!(gsi, 24);
    assert_eq!(guest.set_hvm_param(0, 1 << 56 | 2 << 11), 0);
    let port = guest.alloc_unbound();
    assert_eq!(guest.xen.port_state(port), PortState::Unbound { remote: 0 });
    let (_, out) = guest.call(0, EVENT_CHANNEL_OP, 7, &[0; 8], 0);
    let ipi = u32::from_le_bytes(out[4..].try_into().expect("four bytes"));
    guest.send(ipi);
    assert_eq!(guest.machine.take_interrupts().lines, [(gsi, true)]);
    guest.write(SHARED_INFO << 12, &[0]);
    guest.xen.sync_interrupt_line();
    assert_eq!(guest.machine.take_interrupts().lines, [(gsi, false)]);
}

#[test]
fn fifo_links_and_relinks() {
    let mut guest = Guest::new(Config::default());
    assert_eq!(guest.call(0, HVM_OP, 23, &[0, 0, 0, 0, 0x60, 0, 0, 0], 0).0, 0);
    guest.machine.take_interrupts();
    let (control, array) = (FREE << 12, (FREE + 1) << 12);
    assert_eq!(guest.call(0, EVENT_CHANNEL_OP, 12, &(FREE + 1).to_le_bytes(), 0).0, -95, "not switched yet");
    let mut arg = [0; 24];
    arg[..8].copy_from_slice(&FREE.to_le_bytes());
    let (result, out) = guest.call(0, EVENT_CHANNEL_OP, 11, &arg, 0);
    assert_eq!((result, out[16]), (0, 17));
    assert_eq!(guest.call(0, EVENT_CHANNEL_OP, 11, &arg, 0).0, -22, "a second one for the same virtual CPU");
    assert_eq!(guest.call(0, EVENT_CHANNEL_OP, 12, &(FREE + 1).to_le_bytes(), 0).0, 0);
    let ports: Vec<u32> = (0..3)
        .map(|_| {
            let (_, out) = guest.call(0, EVENT_CHANNEL_OP, 7, &[0; 8], 0);
            u32::from_le_bytes(out[4..].try_into().expect("four bytes"))
        })
        .collect();
    for port in &ports {
        guest.send(*port);
    }
    assert_eq!(guest.read_u32(control), 1 << 7, "the default queue is ready");
    assert_eq!(guest.read_u32(control + 8 + 4 * 7), ports[0]);
    let word = |guest: &Guest, port: u32| guest.read_u32(array + u64::from(port) * 4);
    let (pending, masked, linked) = (1 << 31, 1 << 30, 1 << 29);
    assert_eq!(word(&guest, ports[0]), pending | linked | ports[1]);
    assert_eq!(word(&guest, ports[1]), pending | linked | ports[2]);
    assert_eq!(word(&guest, ports[2]), pending | linked);
    assert_eq!(guest.machine.take_interrupts().vectors, [(0, 0x60)], "one upcall for all");
    // The guest takes all; a masked one stays unlinked until it is unmasked.
    guest.write(control, &[0; 4]);
    guest.write(SHARED_INFO << 12, &[0]);
    for port in &ports {
        guest.write(array + u64::from(*port) * 4, &[0; 4]);
    }
    guest.write(array + u64::from(ports[1]) * 4, &u32::to_le_bytes(masked));
    guest.send(ports[1]);
    assert_eq!(word(&guest, ports[1]), pending | masked);
    assert_eq!(guest.event_op(9, &[ports[1]]), 0);
    assert_eq!(word(&guest, ports[1]), pending | linked);
    assert_eq!(guest.read_u32(control + 8 + 4 * 7), ports[1]);
    // Another queue by priority.
    assert_eq!(guest.event_op(13, &[ports[2], 3]), 0);
    assert_eq!(guest.event_op(13, &[ports[2], 16]), -22);
    guest.send(ports[2]);
    assert_eq!(guest.read_u32(control + 8 + 4 * 3), ports[2]);
    // A reset closes all and goes back to two levels.
    assert_eq!(guest.call(0, EVENT_CHANNEL_OP, 10, &DOMID_SELF.to_le_bytes(), 0).0, 0);
    assert_eq!(guest.xen.open_ports(), 0);
    assert_eq!(guest.call(0, EVENT_CHANNEL_OP, 11, &arg, 0).0, 0, "after a reset it may be set up again");
    assert!(guest.xen.guest_errors().is_empty());
}

#[test]
fn a_store_port_closed_by_reset_can_be_bound_again() {
    let mut guest = Guest::new(Config::default());
    let port = guest.hvm_param(2) as u32;
    let PortState::Interdomain { remote: 0, port: other } = guest.xen.port_state(port) else { panic!("not bound") };
    assert_eq!(guest.call(0, EVENT_CHANNEL_OP, 10, &DOMID_SELF.to_le_bytes(), 0).0, 0);
    let mut arg = [0; 12];
    arg[4..8].copy_from_slice(&other.to_le_bytes());
    let (result, out) = guest.call(0, EVENT_CHANNEL_OP, 0, &arg, 0);
    assert_eq!(result, 0);
    let port = u64::from(u32::from_le_bytes(out[8..].try_into().expect("four bytes")));
    assert_eq!(guest.set_hvm_param(2, port), 0);
    guest.start();
    assert_eq!(guest.read("name").as_deref(), Ok("guest"));
}

#[test]
fn the_first_grants_are_the_toolstacks() {
    let mut guest = Guest::new(Config::default());
    // permit_access, mapped for reading and writing by dom0; the frames of console and xenstore.
    assert_eq!([0, 1].map(|reference| guest.grant_flags(reference)), [25; 2]);
    assert_eq!(guest.read_u32((GRANTS << 12) + 4), layout::CONSOLE_GFN as u32);
    assert_eq!(guest.read_u32((GRANTS << 12) + 12), layout::STORE_GFN as u32);
    assert_eq!(guest.xen.mapped_grants(), 0, "none of them is the guest's");
    // A guest that takes one for free is found out when the toolstack lets go of it.
    guest.set_grant(1, 0, 0);
    guest.xen.suspend(false);
    assert_eq!(guest.call(0, SCHED_OP, 2, &[2, 0, 0, 0], 0).0, 0);
    let errors = guest.xen.guest_errors();
    assert_eq!(errors.iter().map(|error| error.kind).collect::<Vec<_>>(), [GuestErrorKind::FreedWhileGranted]);
}

#[test]
fn every_guest_has_a_keyboard() {
    let mut guest = Guest::new(Config::default());
    guest.start();
    let back = guest.read("device/vkbd/0/backend").expect("a backend");
    assert_eq!(guest.read(&format!("{back}/state")).as_deref(), Ok("2"));
    assert_eq!(guest.read("device/vkbd/0/state").as_deref(), Ok("1"));
}

#[test]
fn vcpu_info_moves_with_everything_pending() {
    let mut guest = Guest::new(Config::default());
    let mut arg = [0; 16];
    arg[..8].copy_from_slice(&FREE.to_le_bytes());
    arg[8] = 64;
    assert_eq!(guest.call(0, VCPU_OP, 10, &arg, 0).0, 0);
    assert_eq!(guest.call(0, VCPU_OP, 10, &arg, 0).0, -22);
    let at = (FREE << 12) + 64;
    assert_eq!(guest.read_u32(at) & 0xff, 1);
    assert_eq!(guest.read_u64(at + 8), u64::MAX);
}

#[test]
fn the_device_models_ports_are_xens() {
    let mut guest = Guest::new(Config { vcpus: 2, ..Config::default() });
    // 1 is xenstore's, 2 the console's; then one a virtual CPU and one for buffered writes.
    for port in 3..6 {
        assert_eq!(guest.xen.port_state(port), PortState::DeviceModel);
        assert_eq!(guest.event_op(4, &[port]), -22, "send");
        assert_eq!(guest.event_op(3, &[port]), -22, "close");
        assert_eq!(guest.event_op(8, &[port, 1]), -22, "bind_vcpu");
        assert_eq!(guest.event_op(5, &[DOMID_SELF.into(), port, 0, 0, 0, 0]), -13, "status");
    }
    assert_eq!(guest.alloc_unbound(), 6);
    assert_eq!(guest.call(0, EVENT_CHANNEL_OP, 10, &DOMID_SELF.to_le_bytes(), 0).0, 0);
    assert_eq!(guest.xen.port_state(5), PortState::DeviceModel, "a reset does not close them");
    assert_eq!(guest.alloc_unbound(), 1);
}

#[test]
fn the_console_has_its_other_end() {
    let mut guest = Guest::new(Config::default());
    let port = guest.hvm_param(18) as u32;
    assert!(matches!(guest.xen.port_state(port), PortState::Interdomain { remote: 0, .. }));
}

#[test]
fn faults_are_injected_once_at_the_right_call() {
    let mut guest = Guest::new(Config::default());
    guest.xen.fail_hypercall(Fault { op: Some(EVENT_CHANNEL_OP), sub: Some(6), after: 1, errno: -28, lasting: false });
    guest.alloc_unbound();
    let mut arg = [0; 8];
    arg[..2].copy_from_slice(&DOMID_SELF.to_le_bytes());
    assert_eq!(guest.call(0, EVENT_CHANNEL_OP, 6, &arg, 0).0, -28);
    guest.alloc_unbound();
    assert_eq!(guest.xen.counters().injected_failures, 1);
}

#[test]
fn without_xen_a_hypercall_is_an_error() {
    let machine = xen_model::TestMachine::new(16);
    let config = Config { present: false, ..Config::default() };
    let mut xen = xen_model::Xen::new(config, Box::new(machine));
    assert_eq!(xen.cpuid(0, 0x4000_0000, 0), None);
    assert_eq!(xen.hypercall(0, XEN_VERSION, [0; 5]), -38);
    assert_eq!(xen.guest_errors()[0].kind, GuestErrorKind::HypercallWithoutXen);
}

#[test]
fn power_off_is_recorded() {
    let mut guest = Guest::new(Config::default());
    guest.xen.request_power("poweroff");
    assert_eq!(guest.read("control/shutdown").as_deref(), Ok("poweroff"));
    assert!(!guest.xen.power_request_acknowledged());
    guest.write_store(0, "control/shutdown", "").expect("it is the guest's own");
    assert!(guest.xen.power_request_acknowledged());
    assert_eq!(guest.call(0, SCHED_OP, 2, &[9, 0, 0, 0], 0).0, -22);
    assert_eq!(guest.call(0, SCHED_OP, 2, &[0, 0, 0, 0], 0).0, 0);
    assert_eq!(guest.xen.shutdown_reason(), Some(0));
}

#[test]
fn platform_device_and_log_ports() {
    let mut guest = Guest::new(Config::default());
    let mut id = [0; 4];
    guest.xen.pci_config_read(0, &mut id);
    assert_eq!(u32::from_le_bytes(id), 0x0001_5853);
    guest.xen.pci_config_write(0x14, &u32::MAX.to_le_bytes());
    guest.xen.pci_config_read(0x14, &mut id);
    assert_eq!(u32::from_le_bytes(id), 0xff00_0008, "16 MiB, prefetchable");
    assert_eq!(guest.xen.port_in(0x10, 2), Some(0x49d2));
    assert_eq!(guest.xen.port_in(0x12, 1), Some(1));
    assert!(guest.xen.port_out(0x10, 2, 3));
    assert!(guest.xen.platform().unplugged().ide_disks && guest.xen.platform().unplugged().nics);
    for byte in b"hello\n" {
        guest.xen.port_out(0xe9, 1, u32::from(*byte));
    }
    assert_eq!(guest.xen.platform().log_lines(), ["hello"]);
    assert!(!guest.xen.port_out(0x80, 1, 0));
}

#[test]
fn no_hypercall_takes_the_host_down() {
    for seed in 0..20 {
        let mut guest = Guest::new(Config { seed, vcpus: 2, ..Config::default() });
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..3000 {
            // Small numbers find more paths than large ones.
            let words: Vec<u8> = (0..8)
                .map(|_| match random() % 4 {
                    0 => random(),
                    1 => random() % 4096,
                    _ => (random() % 8) | ((random() % 8) << 32),
                })
                .flat_map(u64::to_le_bytes)
                .collect();
            let at = ((random() % 200) << 12) | (random() % 4096);
            // The page may have been given away; then the call finds nothing there, as it should.
            let _missing = guest.machine.write(at, &words);
            let op = [12, 17, 20, 24, 29, 32, 32, 34][(random() % 8) as usize];
            let sub = random() % 32;
            guest.xen.hypercall((random() % 2) as u32, op, [sub, at, random() % 4, 0, 0]);
            if random() % 16 == 0 {
                guest.xen.step(0);
            }
        }
        assert!(guest.xen.counters().hypercalls_of(32) > 0);
    }
}
