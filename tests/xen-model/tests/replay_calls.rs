//! Makes the hypercalls that the drivers made on a real Xen, recorded by the lab, and the requests on a disk's ring; compares
//! results, what Xen wrote, and the ring's indices with the model's. Each recording is the `trace.txt` of a case of the lab.

#[path = "../../lab/guest/src/trace/calls.rs"]
mod calls;
mod guest;

use std::collections::HashMap;

use calls::{CALLS, Call, value};
use guest::*;
use xen_abi::blkif::{Command, Direction, Request, Segment, Segments};
use xen_model::{Config, CpuVendor, DiskOptions, DiskSpec, MemoryBacking, TestMachine, Xen};

/// A recording of the lab: the hypercalls of the drivers, and what went over the ring of a disk.
struct Recording {
    /// Case of the lab.
    case: &'static str,
    text: &'static str,
    /// The disk that was recorded.
    disk: fn() -> DiskOptions,
    /// The least number of hypercalls.
    hypercalls: usize,
    /// How often the ring was connected.
    rings: usize,
}

const RECORDINGS: [Recording; 5] = [
    Recording {
        case: "lab/trace",
        text: include_str!("traces/one-disk-calls.txt"),
        disk: blkback,
        hypercalls: 200,
        rings: 1,
    },
    Recording {
        case: "lab/trace-line-two-level",
        text: include_str!("traces/line-two-level-calls.txt"),
        disk: blkback,
        hypercalls: 200,
        rings: 1,
    },
    Recording {
        case: "lab/trace-qdisk",
        text: include_str!("traces/qdisk-calls.txt"),
        disk: qdisk,
        hypercalls: 200,
        rings: 1,
    },
    Recording {
        case: "lab/trace-cancelled",
        text: include_str!("traces/cancelled-calls.txt"),
        disk: blkback,
        hypercalls: 200,
        rings: 1,
    },
    Recording {
        case: "lab/trace-restored",
        text: include_str!("traces/restored-calls.txt"),
        disk: blkback,
        hypercalls: 250,
        rings: 2,
    },
];

/// `max-ring-page-order` of the recorded disks.
const RING_ORDER: u32 = 4;
const VDEV: u32 = 51776;

fn blkback() -> DiskOptions {
    DiskOptions::new(VDEV)
}

fn qdisk() -> DiskOptions {
    DiskOptions::qdisk(VDEV)
}

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
        if call.operation == "shutdown" {
            // The toolstack's part: 1 is a suspend that it gave up.
            self.xen.suspend(*result == 1);
        }
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
    for Recording { case, text, hypercalls, .. } in RECORDINGS {
        let (count, difference) = replay(text);
        assert_eq!(difference, None, "{case}");
        assert!(count > hypercalls, "{case}: {count} hypercalls");
    }
}

#[test]
fn a_trace_that_says_otherwise_is_refused() {
    for (case, right, wrong) in [
        ("lab/trace", "space=0x0 idx=0x0 gpfn=", "space=0x5 idx=0x0 gpfn="),
        ("lab/trace", "= 0 nr_frames=0x1", "= 0 nr_frames=0x2"),
        ("lab/trace", "= 0 link_bits=0x11", "= 0"),
        ("lab/trace", "remote_dom=0x0 port=0x0 = 0 port=0x5", "remote_dom=0x0 port=0x0 = 0 port=0x6"),
        ("lab/trace-cancelled", "reason=0x2 = 1", "reason=0x2 = 0"),
        ("lab/trace-restored", "reason=0x2 = 0", "reason=0x2 = 1"),
        ("lab/trace-restored", "= 0 nr_frames=0x3", "= 0 nr_frames=0x4"),
    ] {
        let text = RECORDINGS.iter().find(|recording| recording.case == case).expect("such a recording").text;
        assert!(text.contains(right), "{case} has `{right}`");
        let (_, difference) = replay(&text.replace(right, wrong));
        assert!(difference.is_some(), "{case}: `{wrong}` was not noticed");
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

/// Suspends the guest, as a line of the trace says that it did.
fn suspend(guest: &mut Guest, line: &str) {
    guest.settle();
    let cancelled = line.ends_with(" = 1");
    guest.xen.suspend(cancelled);
    assert_eq!(guest.call(0, SCHED_OP, 2, &2_u32.to_le_bytes(), 0).0, i64::from(cancelled), "{line}");
    if !cancelled {
        guest.start();
    }
}

/// Replays what went over a disk's ring: rings, requests, and how often the indices were compared.
fn replay_ring(recording: &Recording) -> Result<(usize, u64, u64), String> {
    let mut guest = Guest::new(Config::default());
    guest.xen.attach_disk(DiskSpec { options: (recording.disk)(), backing: Box::new(MemoryBacking::new(8192)) });
    let mut front = None;
    let (mut rings, mut requests, mut compared) = (0, 0, 0);
    for line in recording.text.lines() {
        if line.starts_with("sched_op shutdown ") {
            suspend(&mut guest, line);
            continue;
        }
        if line == "ring connected" {
            front = Some(Front::connect(&mut guest, VDEV, RING_ORDER));
            rings += 1;
            continue;
        }
        let Some(front) = &mut front else { continue };
        let same = |what: &str, model: &str, real: &str| {
            let differs = || format!("request {requests}, {what}: model {model}, Xen {real}");
            if model == real { Ok(()) } else { Err(differs()) }
        };
        if let Some(asked) = line.strip_prefix("request ") {
            requests += 1;
            let request = request(&mut guest, requests, asked);
            front.ring.push(&request.encode()).expect("a free slot");
            if !front.ring.publish() {
                return Err(format!("{line}: Xen's backend had to be told, the model's not"));
            }
        } else if let Some(real) = line.strip_prefix("ring sent ") {
            same("as sent", &indices(&guest), real)?;
            compared += 1;
            guest.send(front.port);
        } else if let Some(real) = line.strip_prefix("response ") {
            // The recording waited until dom0 rested, too.
            guest.settle();
            let response = front.ring.take().expect("sane indices").expect("a response");
            assert_eq!(response.id, requests);
            same("answer", &format!("operation={} status={}", response.operation, response.status), real)?;
        } else if let Some(real) = line.strip_prefix("ring done ") {
            assert!(!front.ring.final_check().expect("sane indices"), "a second response");
            same("done", &indices(&guest), real)?;
            compared += 1;
        }
    }
    let errors = guest.xen.guest_errors();
    errors.first().map_or(Ok((rings, requests, compared)), |error| Err(format!("fault with the guest: {error}")))
}

#[test]
fn ring_indices_go_as_on_xen() {
    for recording in &RECORDINGS {
        let replayed = replay_ring(recording);
        assert_eq!(replayed, Ok((recording.rings, 20, 40)), "{}", recording.case);
    }
}

#[test]
fn indices_that_say_otherwise_are_refused() {
    for (right, wrong) in [
        ("ring done req_prod=7 rsp_prod=7 req_event=8", "ring done req_prod=7 rsp_prod=7 req_event=7"),
        ("ring sent req_prod=3 rsp_prod=2", "ring sent req_prod=3 rsp_prod=1"),
        ("response operation=5 status=0", "response operation=5 status=-2"),
    ] {
        for recording in &RECORDINGS {
            assert!(recording.text.contains(right), "{} has `{right}`", recording.case);
            let text = recording.text.replace(right, wrong).leak();
            let replayed = replay_ring(&Recording { text, ..*recording });
            assert!(replayed.is_err(), "{}: `{wrong}` was not noticed", recording.case);
        }
    }
}
