//! Replays what a guest asked a real xenstored, recorded by the lab, and compares each answer with the model's.

mod guest;

use std::collections::BTreeSet;

use guest::*;
use xen_abi::xenstore::MessageType;
use xen_model::{Config, DiscardOptions, DiskSpec, MemoryBacking};

/// One line of a trace: `IN READ (path )`. xenstored prints a NUL as a space; no value recorded has one of its own.
struct Line<'l> {
    into: bool,
    kind: &'l str,
    words: Vec<&'l str>,
}

fn parse(line: &str) -> Option<Line<'_>> {
    let (head, content) = line.strip_suffix(')')?.split_once(" (")?;
    let (direction, kind) = head.split_once(' ')?;
    let into = match direction {
        "IN" => true,
        "OUT" => false,
        _ => return None,
    };
    Some(Line { into, kind, words: content.split(' ').filter(|word| !word.is_empty()).collect() })
}

fn kind(name: &str) -> MessageType {
    match name {
        "DIRECTORY" => MessageType::Directory,
        "READ" => MessageType::Read,
        "WATCH" => MessageType::Watch,
        "TRANSACTION_START" => MessageType::TransactionStart,
        "TRANSACTION_END" => MessageType::TransactionEnd,
        "WRITE" => MessageType::Write,
        "RM" => MessageType::Rm,
        "RESET_WATCHES" => MessageType::ResetWatches,
        _ => panic!("the trace has a {name}, which the replay does not know"),
    }
}

/// An answer as far as both can be the same: of a directory the names, of an acknowledgement that it is one, of a
/// transaction's number and a domain's UUID nothing.
fn comparable(kind: &str, words: &[&str]) -> String {
    let mut words: Vec<&str> = words.to_vec();
    match kind {
        "TRANSACTION_START" => return "a number".to_owned(),
        "DIRECTORY" => words.sort_unstable(),
        "READ" if words.first().is_some_and(|value| value.starts_with("/vm/")) => return "/vm/UUID".to_owned(),
        _ => {}
    }
    words.join(" ")
}

/// A replay in progress.
struct Replay {
    guest: Guest,
    transaction: u32,
    pages: u64,
}

impl Replay {
    /// The value that the model needs in place of the recorded one: its own grant reference or port.
    fn substitute(&mut self, path: &str, value: &str) -> String {
        let key = path.rsplit('/').next().unwrap_or(path);
        if key.starts_with("ring-ref") {
            self.pages += 1;
            return self.guest.grant(RING + self.pages - 1, false).to_string();
        }
        if key == "event-channel" { self.guest.alloc_unbound().to_string() } else { value.to_owned() }
    }

    /// Asks the model; its answer, in the words of the trace.
    fn ask(&mut self, line: &Line<'_>) -> String {
        self.guest.settle();
        // The trace does not say what belongs to the transaction: it is what the frontend publishes.
        let path = line.words.first().copied().unwrap_or_default();
        let published =
            path.starts_with("device/vbd/") && !path.ends_with("/state") && matches!(line.kind, "WRITE" | "RM");
        let transaction = if published || line.kind == "TRANSACTION_END" { self.transaction } else { 0 };
        let payload = match (line.kind, &line.words[..]) {
            ("WRITE", [path, value]) => [path.as_bytes(), &[0], self.substitute(path, value).as_bytes()].concat(),
            (_, []) => vec![0],
            (_, words) => words.iter().flat_map(|word| word.bytes().chain([0])).collect(),
        };
        match self.guest.store_result(kind(line.kind), transaction, &payload) {
            Err(name) => format!("ERROR {name}"),
            Ok(answer) => {
                let text = String::from_utf8_lossy(&answer).replace('\0', " ");
                if line.kind == "TRANSACTION_START" {
                    self.transaction = text.trim().parse().expect("a number");
                }
                comparable(line.kind, &text.split_ascii_whitespace().collect::<Vec<_>>())
            }
        }
    }
}

fn replay(trace: &str, guest: Guest) {
    let lines: Vec<Line<'_>> = trace.lines().filter_map(parse).collect();
    let asked = lines.iter().filter(|line| line.into);
    let answered = lines.iter().filter(|line| !line.into && line.kind != "WATCH_EVENT");
    assert_eq!(asked.clone().count(), answered.clone().count(), "the trace has an answer to each request");
    let mut replay = Replay { guest, transaction: 0, pages: 0 };
    // xenstored answers a connection's requests in their order.
    for (number, (line, recorded)) in asked.zip(answered).enumerate() {
        let model = replay.ask(line);
        let real = match recorded.kind {
            "ERROR" => format!("ERROR {}", recorded.words.join(" ")),
            kind => comparable(kind, &recorded.words),
        };
        assert_eq!(model, real, "request {number}, {} {:?}: model, Xen", line.kind, line.words);
    }
    replay.guest.settle();
    let events = replay.guest.watch_events();
    let model: BTreeSet<(&str, &str)> = events.iter().map(|(path, token)| (path.as_str(), token.as_str())).collect();
    let recorded = lines.iter().filter(|line| line.kind == "WATCH_EVENT");
    let real: BTreeSet<(&str, &str)> = recorded.map(|line| (line.words[0], line.words[1])).collect();
    assert_eq!(model, real, "watches that fired: model, Xen");
    assert!(replay.guest.xen.guest_errors().is_empty(), "{:?}", replay.guest.xen.guest_errors());
}

#[test]
fn a_disk_connects_as_on_xen() {
    let mut guest = Guest::new(Config::default());
    let mut spec = DiskSpec::new(51776, MemoryBacking::new(8192));
    spec.options.discard = Some(DiscardOptions { granularity: 4096, alignment: 0, secure: false });
    spec.options.physical_sector_size = Some(512);
    guest.xen.attach_disk(spec);
    replay(include_str!("traces/one-disk.txt"), guest);
}
