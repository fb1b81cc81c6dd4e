//! Makes the hypercalls that the drivers made on a real Xen, recorded by the lab, and the requests on a disk's ring; compares
//! results, what Xen wrote, and the ring's indices with the model's.

#[path = "../../lab/guest/src/trace/calls.rs"]
mod calls;
mod guest;

use std::collections::HashMap;

use calls::{CALLS, Call, value};
use guest::*;
use xen_abi::blkif::{Command, Direction, Request, Segment, Segments};
use xen_model::{Config, CpuVendor, DiscardOptions, DiskSpec, MemoryBacking, TestMachine, Xen};

const TRACE: &str = include_str!("traces/one-disk-calls.txt");
/// `max-ring-page-order` of the recorded disk.
const RING_ORDER: u32 = 4;
const VDEV: u32 = 51776;

fn number(text: &str) -> u64 {
    let value = text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u64::from_str_radix(hex, 16));
    value.unwrap_or_else(|_| panic!("{text} is no number"))
}

/// `name=value` words.
fn fields(words: &str) -> HashMap<&str, &str> {
    words.split_ascii_whitespace().map(|word| word.split_once('=').expect("name=value")).collect()
}

/// A hypercall of the trace.
struct Line<'l> {
    call: &'static Call,
    input: HashMap<&'l str, &'l str>,
    result: i64,
    output: HashMap<&'l str, &'l str>,
}

fn parse(line: &str) -> Option<Line<'_>> {
    let (head, tail) = line.split_once(" = ")?;
    let mut words = head.splitn(3, ' ');
    let (name, operation) = (words.next()?, words.next()?);
    let call = CALLS.iter().find(|call| (call.name, call.operation) == (name, operation));
    let (result, output) = tail.split_once(' ').unwrap_or((tail, ""));
    Some(Line {
        call: call.unwrap_or_else(|| panic!("{name} {operation} is no known hypercall")),
        input: fields(words.next().unwrap_or_default()),
        result: result.parse().expect("a result"),
        output: fields(output),
    })
}

/// Guest memory for argument structures, and for what they point at.
const SCRATCH: u64 = 0x1000;
const LIST: u64 = 0x1800;
/// Pages of the recorded guest, 64 MiB: its frame numbers are used as they stand.
const PAGES: u64 = 0x4000;

/// A guest that only makes hypercalls.
struct Replay {
    machine: TestMachine,
    xen: Xen,
    /// dom0's ports: as recorded, and here. They are nothing that the two must agree on.
    ports: HashMap<u64, u64>,
}

impl Replay {
    fn new() -> Self {
        let machine = TestMachine::new(PAGES);
        let config = Config { ram_pages: PAGES, cpu_vendor: CpuVendor::Amd, ..Config::default() };
        let xen = Xen::new(config, Box::new(machine.clone()));
        Self { machine, xen, ports: HashMap::new() }
    }

    /// Makes the call; where the model's answer differs, what is different.
    fn differs(&mut self, line: &Line<'_>) -> Option<String> {
        let Line { call, input, result, output } = line;
        let given = |name: &str| number(input.get(name).unwrap_or_else(|| panic!("no field {name}")));
        let mut structure = vec![0; call.bytes];
        for field in call.fields {
            let value = match field.name {
                "remote_port" => self.ports.get(&given("remote_port")).copied().unwrap_or_else(|| given("remote_port")),
                name => given(name),
            };
            structure[field.at..field.at + field.bytes].copy_from_slice(&value.to_le_bytes()[..field.bytes]);
        }
        if let Some(list) = &call.list {
            let elements = input["list"].split(',').flat_map(|element| number(element).to_le_bytes());
            let elements: Vec<u8> = elements.collect();
            assert_eq!(elements.len() as u64, value(&structure, list.count, 8) * 8, "the trace has the whole list");
            self.machine.write(LIST, &elements).expect("RAM");
            structure[list.pointer..list.pointer + 8].copy_from_slice(&LIST.to_le_bytes());
        }
        self.machine.write(SCRATCH, &structure).expect("RAM");
        let mut arguments = [call.command, 0, 0, 0, 0];
        arguments[call.address] = SCRATCH;
        if let Some((name, place)) = call.extra {
            arguments[place] = given(name);
        }
        let returned = self.xen.hypercall(0, call.number as u32, arguments);
        if returned != *result {
            return Some(format!("the model returns {returned}, Xen {result}"));
        }
        self.machine.read(SCRATCH, &mut structure).expect("RAM");
        for field in call.fields {
            let model = value(&structure, field.at, field.bytes);
            let real = output.get(field.name).map_or_else(|| given(field.name), |text| number(text));
            if field.name == "remote_port" {
                self.ports.insert(real, model);
            } else if model != real {
                return Some(format!("{} is {model:#x} in the model, {real:#x} on Xen", field.name));
            }
        }
        None
    }
}

/// Replays the hypercalls of a trace: their number, and the first difference.
fn replay(trace: &str) -> (usize, Option<String>) {
    let mut replay = Replay::new();
    let mut count = 0;
    for line in trace.lines().filter(|line| !line.starts_with('#')) {
        let Some(call) = parse(line) else { continue };
        count += 1;
        if let Some(difference) = replay.differs(&call) {
            return (count, Some(format!("hypercall {count}, `{line}`: {difference}")));
        }
    }
    let errors = replay.xen.guest_errors();
    (count, errors.first().map(|error| format!("the model finds fault with the guest: {error}")))
}

#[test]
fn hypercalls_answer_as_on_xen() {
    let (count, difference) = replay(TRACE);
    assert_eq!(difference, None);
    assert!(count > 200, "{count} hypercalls");
}

#[test]
fn a_trace_that_says_otherwise_is_refused() {
    assert_eq!(replay(TRACE).1, None);
    for (right, wrong) in [
        ("gpfn=0x2fb = 0", "gpfn=0x2fb = -22"),
        ("= 0 nr_frames=0x1", "= 0 nr_frames=0x2"),
        ("= 0 link_bits=0x11", "= 0"),
        ("remote_dom=0x0 port=0x0 = 0 port=0x5", "remote_dom=0x0 port=0x0 = 0 port=0x6"),
    ] {
        assert!(TRACE.contains(right), "the trace has `{right}`");
        let (_, difference) = replay(&TRACE.replace(right, wrong));
        assert!(difference.is_some(), "`{wrong}` was not noticed");
    }
}

/// The request that a line of the trace tells, over fresh grants.
fn request(guest: &mut Guest, id: u64, line: &str) -> Request {
    let fields = fields(line);
    let (operation, sector) = (number(fields["operation"]), number(fields["sector"]));
    let mut segments = Segments::new();
    for (page, range) in fields.get("segments").into_iter().flat_map(|list| list.split_terminator(',')).enumerate() {
        let (first, last) = range.split_once('-').expect("first-last");
        let reference = guest.grant(DATA + page as u64, operation == 1);
        let segment = Segment::new(reference, number(first) as u8, number(last) as u8).expect("a segment");
        assert!(segments.push(segment));
    }
    let command = match operation {
        0 => Command::Rw { direction: Direction::Read, sector, segments },
        1 => Command::Rw { direction: Direction::Write, sector, segments },
        3 => Command::Flush,
        5 => Command::Discard { sector, sector_count: number(fields["sectors"]), secure: fields["flag"] == "1" },
        other => panic!("the trace has operation {other}"),
    };
    Request { id, handle: 0, command }
}

fn indices(guest: &Guest) -> String {
    let [req_prod, req_event, rsp_prod, rsp_event] = [0, 4, 8, 12].map(|at| guest.read_u32((RING << 12) + at));
    format!("req_prod={req_prod} rsp_prod={rsp_prod} req_event={req_event} rsp_event={rsp_event}")
}

/// Lets the host work until it has put one more response on the ring, and not an instant longer.
fn wait_for_response(guest: &mut Guest, before: u32) {
    for _ in 0..10_000 {
        if guest.read_u32((RING << 12) + 8) != before {
            return;
        }
        if !guest.xen.step(guest.now) {
            guest.now = guest.xen.next_deadline_ns().expect("something in flight").max(guest.now);
        }
    }
    panic!("no response came");
}

#[test]
fn ring_indices_go_as_on_xen() {
    let mut guest = Guest::new(Config::default());
    let mut spec = DiskSpec::new(VDEV, MemoryBacking::new(8192));
    spec.options.discard = Some(DiscardOptions { granularity: 4096, alignment: 0, secure: false });
    guest.xen.attach_disk(spec);
    let mut front = Front::connect(&mut guest, VDEV, RING_ORDER);
    let (mut requests, mut compared) = (0, 0);
    for line in TRACE.lines() {
        if let Some(asked) = line.strip_prefix("request ") {
            // What the backend had left to do after the last response.
            guest.settle();
            requests += 1;
            let request = request(&mut guest, requests, asked);
            front.ring.push(&request.encode()).expect("a free slot");
            assert!(front.ring.publish(), "{line}: Xen's backend had to be told, the model's not");
        } else if let Some(real) = line.strip_prefix("ring sent ") {
            assert_eq!(indices(&guest), real, "request {requests}, as sent: model, Xen");
            compared += 1;
            guest.send(front.port);
        } else if let Some(real) = line.strip_prefix("response ") {
            wait_for_response(&mut guest, requests as u32 - 1);
            let response = front.ring.take().expect("sane indices").expect("a response");
            let model = format!("operation={} status={}", response.operation, response.status);
            assert_eq!((response.id, model.as_str()), (requests, real), "request {requests}: model, Xen");
        } else if let Some(real) = line.strip_prefix("ring done ") {
            assert!(!front.ring.final_check().expect("sane indices"), "a second response");
            assert_eq!(indices(&guest), real, "request {requests}, done: model, Xen");
            compared += 1;
        }
    }
    assert_eq!((requests, compared), (20, 40));
    assert!(guest.xen.guest_errors().is_empty(), "{:?}", guest.xen.guest_errors());
}
