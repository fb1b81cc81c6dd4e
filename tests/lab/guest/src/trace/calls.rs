//! The hypercalls that a trace tells field by field, as Xen's public headers declare them. The replay in
//! `tests/xen-model/tests` reads the same list.

/// A field of an argument structure.
pub struct Field {
    /// Its name in Xen's header.
    pub name: &'static str,
    /// Its first byte.
    pub at: usize,
    /// Its bytes: 1, 2, 4 or 8.
    pub bytes: usize,
}

/// An array that the structure points at.
pub struct List {
    /// Byte at which the structure has its address.
    pub pointer: usize,
    /// Byte at which it has the number of its elements, eight bytes each.
    pub count: usize,
}

/// One operation of a hypercall.
pub struct Call {
    /// The hypercall's name, without `__HYPERVISOR_`.
    pub name: &'static str,
    /// Its number.
    pub number: u64,
    /// The operation's name.
    pub operation: &'static str,
    /// The operation's number: the first argument.
    pub command: u64,
    /// Which argument is the structure's address.
    pub address: usize,
    /// An argument beside command and address: its name and place.
    pub extra: Option<(&'static str, usize)>,
    /// The structure's bytes.
    pub bytes: usize,
    /// Its fields, but padding and addresses.
    pub fields: &'static [Field],
    /// The array, if it points at one.
    pub list: Option<List>,
}

const fn field(name: &'static str, at: usize, bytes: usize) -> Field {
    Field { name, at, bytes }
}

const fn memory(operation: &'static str, command: u64, bytes: usize, fields: &'static [Field]) -> Call {
    Call { name: "memory_op", number: 12, operation, command, address: 1, extra: None, bytes, fields, list: None }
}

const fn extents(operation: &'static str, command: u64) -> Call {
    const FIELDS: &[Field] =
        &[field("nr_extents", 8, 8), field("extent_order", 16, 4), field("mem_flags", 20, 4), field("domid", 24, 2)];
    Call { list: Some(List { pointer: 0, count: 8 }), ..memory(operation, command, 32, FIELDS) }
}

const fn event(operation: &'static str, command: u64, bytes: usize, fields: &'static [Field]) -> Call {
    let name = "event_channel_op";
    Call { name, number: 32, operation, command, address: 1, extra: None, bytes, fields, list: None }
}

const fn grant(operation: &'static str, command: u64, bytes: usize, fields: &'static [Field]) -> Call {
    let (name, extra) = ("grant_table_op", Some(("count", 2)));
    Call { name, number: 20, operation, command, address: 1, extra, bytes, fields, list: None }
}

const fn hvm(operation: &'static str, command: u64, bytes: usize, fields: &'static [Field]) -> Call {
    Call { name: "hvm_op", number: 34, operation, command, address: 1, extra: None, bytes, fields, list: None }
}

const PORT: &[Field] = &[field("port", 0, 4)];
const PARAM: &[Field] = &[field("domid", 0, 2), field("index", 4, 4), field("value", 8, 8)];
const PHYSMAP: &[Field] =
    &[field("domid", 0, 2), field("size", 2, 2), field("space", 4, 4), field("idx", 8, 8), field("gpfn", 16, 8)];
const INTERDOMAIN: &[Field] = &[field("remote_dom", 0, 2), field("remote_port", 4, 4), field("local_port", 8, 4)];
const STATUS: &[Field] = &[
    field("dom", 0, 2),
    field("port", 4, 4),
    field("status", 8, 4),
    field("vcpu", 12, 4),
    // Of a channel between domains; of another kind the first has what there is.
    field("remote_dom", 16, 2),
    field("remote_port", 20, 4),
];
const CONTROL: &[Field] =
    &[field("control_gfn", 0, 8), field("offset", 8, 4), field("vcpu", 12, 4), field("link_bits", 16, 1)];
const SIZE: &[Field] =
    &[field("dom", 0, 2), field("nr_frames", 4, 4), field("max_nr_frames", 8, 4), field("status", 12, 2)];

/// The operations.
pub const CALLS: &[Call] = &[
    extents("decrease_reservation", 1),
    extents("populate_physmap", 6),
    memory("add_to_physmap", 7, 24, PHYSMAP),
    memory("remove_from_physmap", 15, 16, &[field("domid", 0, 2), field("gpfn", 8, 8)]),
    grant("query_size", 6, 16, SIZE),
    grant("set_version", 8, 4, &[field("version", 0, 4)]),
    Call {
        name: "vcpu_op",
        number: 24,
        operation: "register_vcpu_info",
        command: 10,
        address: 2,
        extra: Some(("vcpu", 1)),
        bytes: 16,
        fields: &[field("mfn", 0, 8), field("offset", 8, 4)],
        list: None,
    },
    Call {
        name: "sched_op",
        number: 29,
        operation: "shutdown",
        command: 2,
        address: 1,
        extra: None,
        bytes: 4,
        fields: &[field("reason", 0, 4)],
        list: None,
    },
    event("bind_interdomain", 0, 12, INTERDOMAIN),
    event("close", 3, 4, PORT),
    event("send", 4, 4, PORT),
    event("status", 5, 24, STATUS),
    event("alloc_unbound", 6, 8, &[field("dom", 0, 2), field("remote_dom", 2, 2), field("port", 4, 4)]),
    event("bind_vcpu", 8, 8, &[field("port", 0, 4), field("vcpu", 4, 4)]),
    event("unmask", 9, 4, PORT),
    event("reset", 10, 2, &[field("dom", 0, 2)]),
    event("init_control", 11, 24, CONTROL),
    event("expand_array", 12, 8, &[field("array_gfn", 0, 8)]),
    hvm("set_param", 0, 16, PARAM),
    hvm("get_param", 1, 16, PARAM),
    hvm("set_evtchn_upcall_vector", 23, 8, &[field("vcpu", 0, 4), field("vector", 4, 1)]),
];

/// The value of a field, little-endian as the processor is.
pub fn value(structure: &[u8], at: usize, bytes: usize) -> u64 {
    structure[at..at + bytes].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
