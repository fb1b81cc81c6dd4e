//! The server's half of iperf3's protocol, over any connections: one TCP stream, a number of bytes, either way.
//!
//! A control connection brings a cookie, states of one byte and JSON behind its length; the stream begins with the same
//! cookie. <https://github.com/esnet/iperf>, `src/iperf_server_api.c`, `src/iperf_api.c` and `src/iperf_api.h`.

use std::io::{Read, Write};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

/// The port that iperf3 uses.
pub const PORT: u16 = 5201;
/// The most bytes that a run moves.
pub const MOST: u64 = 1 << 30;
/// Bytes of the cookie, its zero included.
const COOKIE: usize = 37;
/// The longest JSON that is read.
const JSON_MOST: u32 = 64 << 10;
/// The largest block of a client.
const BLOCK_MOST: u64 = 1 << 20;
/// Bytes that are read or written at a time.
const PIECE: usize = 64 << 10;
/// `IEUNIMP`: an option that is not implemented.
const UNIMPLEMENTED: u32 = 13;
/// `IERECVPARAMS`: the parameters cannot be read.
const BAD_PARAMETERS: u32 = 114;

/// What a byte on the control connection says.
mod state {
    pub const TEST_START: u8 = 1;
    pub const TEST_RUNNING: u8 = 2;
    pub const TEST_END: u8 = 4;
    pub const PARAM_EXCHANGE: u8 = 9;
    pub const CREATE_STREAMS: u8 = 10;
    pub const EXCHANGE_RESULTS: u8 = 13;
    pub const DISPLAY_RESULTS: u8 = 14;
    pub const IPERF_DONE: u8 = 16;
    pub const SERVER_ERROR: u8 = -2_i8 as u8;
}

/// Where connections come from.
pub trait Port {
    /// A connection that may come.
    type Waiting;
    /// One that came.
    type Stream: Read + Write;

    /// Takes the next connection, when it comes.
    ///
    /// # Errors
    /// The port cannot be used.
    fn listen(&self) -> anyhow::Result<Self::Waiting>;

    /// Waits for it.
    ///
    /// # Errors
    /// It does not come.
    fn accept(&self, waiting: Self::Waiting) -> anyhow::Result<Self::Stream>;
}

/// What the client asks for.
#[derive(Deserialize)]
struct Parameters {
    #[serde(default)]
    tcp: bool,
    /// Bytes to move.
    #[serde(default)]
    num: u64,
    #[serde(default)]
    time: u64,
    #[serde(default)]
    omit: u64,
    #[serde(default = "one")]
    parallel: u64,
    #[serde(default)]
    reverse: bool,
    #[serde(default)]
    bidirectional: bool,
    /// Bytes of the client's blocks: so many more than `num` may come.
    len: u64,
}

fn one() -> u64 {
    1
}

impl Parameters {
    /// Whether this server does that.
    fn check(&self) -> Result<(), &'static str> {
        match self {
            Self { tcp: false, .. } => Err("only TCP"),
            Self { bidirectional: true, .. } => Err("one direction at a time"),
            Self { parallel, .. } if *parallel != 1 => Err("only one stream"),
            Self { time, omit, .. } if *time != 0 || *omit != 0 => Err("a number of bytes, not a time"),
            Self { num, .. } if !(1..=MOST).contains(num) => Err("that number of bytes"),
            Self { len, .. } if !(1..=BLOCK_MOST).contains(len) => Err("blocks of that size"),
            _ => Ok(()),
        }
    }
}

/// What is read of the client's results.
#[derive(Deserialize)]
struct Theirs {
    streams: Vec<TheirStream>,
}

/// See [`Theirs`].
#[derive(Deserialize)]
struct TheirStream {
    bytes: u64,
}

/// What the server says at the end.
#[derive(Serialize)]
struct Results {
    cpu_util_total: f64,
    cpu_util_user: f64,
    cpu_util_system: f64,
    sender_has_retransmits: i64,
    streams: Vec<StreamResult>,
}

/// See [`Results`].
#[derive(Serialize)]
struct StreamResult {
    id: u64,
    bytes: u64,
    retransmits: i64,
    jitter: f64,
    errors: u64,
    packets: u64,
    start_time: f64,
    end_time: f64,
}

/// What a run came to on this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Whether the server sent.
    pub reverse: bool,
    /// Bytes sent or received.
    pub bytes: u64,
}

/// Serves one run.
///
/// # Errors
/// A connection breaks off, or the client asks for what there is not, which it is told, or breaks the protocol.
pub fn serve<P: Port>(port: &P) -> anyhow::Result<Served> {
    let mut control = port.accept(port.listen()?).context("the control connection")?;
    let mut cookie = [0; COOKIE];
    control.read_exact(&mut cookie).context("the cookie")?;
    control.write_all(&[state::PARAM_EXCHANGE])?;
    let asked = match read_json::<Parameters>(&mut control) {
        Ok(asked) => asked,
        Err(why) => {
            refuse(&mut control, BAD_PARAMETERS)?;
            return Err(why.context("the client's parameters"));
        }
    };
    if let Err(why) = asked.check() {
        refuse(&mut control, UNIMPLEMENTED)?;
        bail!("the client asks for what this server does not: {why}");
    }
    // Before the client may connect.
    let waiting = port.listen()?;
    control.write_all(&[state::CREATE_STREAMS])?;
    let mut stream = port.accept(waiting).context("the stream's connection")?;
    let mut again = [0; COOKIE];
    stream.read_exact(&mut again).context("the stream's cookie")?;
    ensure!(again == cookie, "the stream has another cookie than the control connection");
    control.write_all(&[state::TEST_START, state::TEST_RUNNING])?;

    let began = Instant::now();
    let mut bytes = if asked.reverse { send(&mut stream, asked.num)? } else { drain(&mut stream, 0, asked.num)? };
    expect(&mut control, state::TEST_END)?;
    let seconds = began.elapsed().as_secs_f64();
    control.write_all(&[state::EXCHANGE_RESULTS])?;
    let theirs: Theirs = read_json(&mut control).context("the client's results")?;
    let [TheirStream { bytes: said }] = theirs.streams[..] else {
        bail!("the client has results of {} streams", theirs.streams.len());
    };
    if !asked.reverse {
        // What is under way still comes: the client closes the stream when it has this side's results.
        ensure!(said >= bytes, "the client says that it sent {said} bytes, and {bytes} came");
        ensure!(said < asked.num + asked.len, "the client says that it sent {said} bytes of {}", asked.num);
        bytes = drain(&mut stream, bytes, said)?;
    }
    let result = StreamResult {
        id: 1,
        bytes,
        retransmits: -1,
        jitter: 0.0,
        errors: 0,
        packets: 0,
        start_time: 0.0,
        end_time: seconds,
    };
    // 0: a sender that does not know them; -1: not the sender.
    let sender_has_retransmits = if asked.reverse { 0 } else { -1 };
    let (cpu_util_total, cpu_util_user, cpu_util_system) = (0.0, 0.0, 0.0);
    let streams = vec![result];
    let ours = Results { cpu_util_total, cpu_util_user, cpu_util_system, sender_has_retransmits, streams };
    let text = serde_json::to_vec(&ours)?;
    control.write_all(&u32::try_from(text.len())?.to_be_bytes())?;
    control.write_all(&text)?;
    control.write_all(&[state::DISPLAY_RESULTS])?;
    expect(&mut control, state::IPERF_DONE)?;
    Ok(Served { reverse: asked.reverse, bytes })
}

/// Tells the client that it cannot be served: the number is one of iperf3's.
fn refuse(control: &mut impl Write, error: u32) -> anyhow::Result<()> {
    control.write_all(&[state::SERVER_ERROR])?;
    control.write_all(&error.to_be_bytes())?;
    // No errno.
    Ok(control.write_all(&[0; 4])?)
}

fn expect(control: &mut impl Read, wanted: u8) -> anyhow::Result<()> {
    let mut byte = [0];
    control.read_exact(&mut byte).with_context(|| format!("state {wanted} of the client"))?;
    ensure!(byte[0] == wanted, "the client says {} where {wanted} comes next", byte[0] as i8);
    Ok(())
}

fn read_json<T: for<'a> Deserialize<'a>>(control: &mut impl Read) -> anyhow::Result<T> {
    let mut len = [0; 4];
    control.read_exact(&mut len)?;
    let len = u32::from_be_bytes(len);
    ensure!(len <= JSON_MOST, "{len} bytes of JSON");
    let mut text = vec![0; len as usize];
    control.read_exact(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn send(stream: &mut impl Write, bytes: u64) -> anyhow::Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut done = 0;
    while done < bytes {
        let count = (bytes - done).min(PIECE as u64) as usize;
        xen_model::netback::stream_bytes(1, done, &mut piece[..count]);
        stream.write_all(&piece[..count]).with_context(|| format!("{done} bytes of {bytes} are sent"))?;
        done += count as u64;
    }
    Ok(done)
}

/// Receives until at least `until` bytes are there; how many are.
fn drain(stream: &mut impl Read, mut done: u64, until: u64) -> anyhow::Result<u64> {
    let mut piece = vec![0; PIECE];
    while done < until {
        let count = stream.read(&mut piece).with_context(|| format!("{done} bytes of {until} have come"))?;
        ensure!(count > 0, "the client closed the stream after {done} bytes of {until}");
        done += count as u64;
    }
    Ok(done)
}

/// What the client's own report says (`iperf3 -J`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reported {
    /// Bytes that the sender says it sent.
    pub sent: u64,
    /// Bytes that the receiver says it received.
    pub received: u64,
    /// Segments that the sender sent again, where it knows.
    pub retransmits: Option<u64>,
    /// As the client counts it.
    pub bits_per_second: f64,
}

/// Reads the client's report.
///
/// # Errors
/// It is none, or tells of an error.
pub fn read_report(text: &[u8]) -> anyhow::Result<Reported> {
    #[derive(Deserialize)]
    struct Report {
        error: Option<String>,
        #[serde(default)]
        end: End,
    }
    #[derive(Deserialize, Default)]
    struct End {
        sum_sent: Option<Sum>,
        sum_received: Option<Sum>,
    }
    #[derive(Deserialize)]
    struct Sum {
        bytes: u64,
        bits_per_second: f64,
        retransmits: Option<u64>,
    }
    let report: Report = serde_json::from_slice(text).context("iperf3's report")?;
    if let Some(error) = report.error {
        bail!("iperf3 says: {error}");
    }
    let End { sum_sent: Some(sent), sum_received: Some(received) } = report.end else {
        bail!("iperf3's report has no sums");
    };
    Ok(Reported {
        sent: sent.bytes,
        received: received.bytes,
        retransmits: sent.retransmits,
        bits_per_second: received.bits_per_second,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::io::{self, Cursor};
    use std::rc::Rc;

    /// A connection whose other side has said all that it will ever say.
    struct Scripted {
        input: Cursor<Vec<u8>>,
        output: Rc<RefCell<Vec<u8>>>,
    }

    impl Read for Scripted {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.input.read(into)
        }
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.output.borrow_mut().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Hands out connections, each of which must be waited for before it can be taken.
    struct Connections(RefCell<VecDeque<Scripted>>);

    impl Port for Connections {
        type Waiting = Scripted;
        type Stream = Scripted;

        fn listen(&self) -> anyhow::Result<Scripted> {
            self.0.borrow_mut().pop_front().context("nobody connects")
        }

        fn accept(&self, waiting: Scripted) -> anyhow::Result<Scripted> {
            Ok(waiting)
        }
    }

    const NAME: [u8; COOKIE] = *b"abcdefghijklmnopqrstuvwxyz0123456789\0";

    fn json(text: &str) -> Vec<u8> {
        [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
    }

    fn results(bytes: u64) -> Vec<u8> {
        // iperf 3.12 writes -1, for what it does not know, as 2^64 - 1.
        json(&format!(
            r#"{{"cpu_util_total":1.5,"cpu_util_user":0,"cpu_util_system":1,"sender_has_retransmits":18446744073709551615,"congestion_used":"cubic",
            "streams":[{{"id":1,"bytes":{bytes},"retransmits":18446744073709551615,"jitter":0,"errors":0,"packets":0,"start_time":0,"end_time":1.25}}]}}"#
        ))
    }

    /// Serves; what it came to, and what control connection and stream were sent.
    fn run(control: &[Vec<u8>], stream: &[u8]) -> (anyhow::Result<Served>, Vec<u8>, Vec<u8>) {
        let outputs = [(); 2].map(|()| Rc::new(RefCell::new(Vec::<u8>::new())));
        let inputs = [control.concat(), stream.to_vec()];
        let scripted = |(input, output): (_, &Rc<RefCell<Vec<u8>>>)| Scripted {
            input: Cursor::new(input),
            output: output.clone(),
        };
        let connections = inputs.into_iter().zip(&outputs).map(scripted);
        let served = serve(&Connections(RefCell::new(connections.collect())));
        let [control, stream] = outputs.map(|output| output.take());
        (served, control, stream)
    }

    /// The states that the control connection was sent, and the server's results between them.
    fn take_apart(control: &[u8]) -> (Vec<u8>, serde_json::Value) {
        let start =
            control.iter().position(|byte| *byte == state::EXCHANGE_RESULTS).expect("results are exchanged") + 1;
        let len = u32::from_be_bytes(*control[start..].first_chunk().expect("a length")) as usize;
        let text = &control[start + 4..start + 4 + len];
        let states = [&control[..start], &control[start + 4 + len..]].concat();
        (states, serde_json::from_slice(text).expect("the server's results"))
    }

    const UPLOAD: &str =
        r#"{"tcp":true,"omit":0,"num":100000,"parallel":1,"len":131072,"pacing_timer":1000,"client_version":"3.12"}"#;
    const DOWNLOAD: &str = r#"{"tcp":true,"omit":0,"num":100000,"parallel":1,"reverse":true,"len":131072}"#;

    #[test]
    fn all_that_a_client_sent_is_counted() {
        // A client stops at the end of a block, and the last of it is under way when it says so.
        let stream = [&NAME[..], &vec![0x5a; 131_072]].concat();
        let (served, control, sent) =
            run(&[NAME.to_vec(), json(UPLOAD), vec![state::TEST_END], results(131_072), vec![16]], &stream);
        assert_eq!(served.expect("served"), Served { reverse: false, bytes: 131_072 });
        let (states, ours) = take_apart(&control);
        assert_eq!(states, [9, 10, 1, 2, 13, 14]);
        assert_eq!(
            [&ours["streams"][0]["id"], &ours["streams"][0]["bytes"], &ours["sender_has_retransmits"]],
            [1, 131_072, -1]
        );
        assert!(sent.is_empty());
    }

    #[test]
    fn a_client_gets_as_much_as_it_asks_for() {
        let (served, control, sent) =
            run(&[NAME.to_vec(), json(DOWNLOAD), vec![state::TEST_END], results(100_000), vec![16]], &NAME);
        assert_eq!(served.expect("served"), Served { reverse: true, bytes: 100_000 });
        let (states, ours) = take_apart(&control);
        assert_eq!(states, [9, 10, 1, 2, 13, 14]);
        assert_eq!([&ours["streams"][0]["bytes"], &ours["sender_has_retransmits"]], [100_000, 0]);
        assert_eq!(sent.len(), 100_000);
    }

    #[test]
    fn what_is_not_served_is_refused() {
        for (parameters, error) in [
            (r#"{"udp":true,"num":1,"len":1}"#, UNIMPLEMENTED),
            (r#"{"tcp":true,"time":10,"len":131072}"#, UNIMPLEMENTED),
            (r#"{"tcp":true,"num":1,"omit":1,"len":131072}"#, UNIMPLEMENTED),
            (r#"{"tcp":true,"num":1,"parallel":2,"len":131072}"#, UNIMPLEMENTED),
            (r#"{"tcp":true,"num":1,"bidirectional":true,"len":131072}"#, UNIMPLEMENTED),
            (r#"{"tcp":true,"num":0,"len":131072}"#, UNIMPLEMENTED),
            (r#"{"tcp":true,"num":1073741825,"len":131072}"#, UNIMPLEMENTED),
            (r#"{"tcp":true,"num":1,"len":0}"#, UNIMPLEMENTED),
            (r#"{"tcp":true,"num":1,"len":1048577}"#, UNIMPLEMENTED),
            (r#"{"tcp":true,"num":-1,"len":131072}"#, BAD_PARAMETERS),
            (r#"{"tcp":true,"num":1e300,"len":131072}"#, BAD_PARAMETERS),
            (r#"{"tcp":1,"num":1,"len":131072}"#, BAD_PARAMETERS),
            (r#"{"tcp":true,"num":1}"#, BAD_PARAMETERS),
            ("[]", BAD_PARAMETERS),
            ("{", BAD_PARAMETERS),
            ("", BAD_PARAMETERS),
        ] {
            let (served, control, _) = run(&[NAME.to_vec(), json(parameters)], &NAME);
            assert!(served.is_err(), "{parameters}");
            assert_eq!(control, [&[9, 0xfe][..], &error.to_be_bytes(), &[0; 4]].concat(), "{parameters}");
        }
        // A length that nobody reads, and one of which the rest does not come.
        for text in [vec![0xff; 4], vec![0, 1, 0, 1], json(UPLOAD)[..40].to_vec()] {
            let (served, control, _) = run(&[NAME.to_vec(), text], &NAME);
            assert!(served.is_err());
            assert_eq!(control[..2], [9, 0xfe]);
        }
    }

    #[test]
    fn a_client_that_breaks_the_protocol_is_left() {
        let whole = [&NAME[..], &vec![0x5a; 131_072]].concat();
        let end = vec![state::TEST_END];
        let cases = [
            ("no cookie", vec![NAME[..36].to_vec()], &whole[..]),
            ("another cookie", vec![NAME.to_vec(), json(UPLOAD)], &whole[1..]),
            ("a stream that ends early", vec![NAME.to_vec(), json(UPLOAD), end.clone()], &whole[..5000]),
            ("another state", vec![NAME.to_vec(), json(UPLOAD), vec![12]], &whole),
            ("fewer than came", vec![NAME.to_vec(), json(UPLOAD), end.clone(), results(99_999)], &whole),
            ("more than blocks allow", vec![NAME.to_vec(), json(UPLOAD), end.clone(), results(231_072)], &whole),
            ("more than comes", vec![NAME.to_vec(), json(UPLOAD), end.clone(), results(131_073)], &whole),
            ("no end", vec![NAME.to_vec(), json(UPLOAD), end, results(131_072)], &whole),
        ];
        for (what, control, stream) in cases {
            assert!(run(&control, stream).0.is_err(), "{what}");
        }
    }

    #[test]
    fn reports_are_read() {
        let text = br#"{"start":{},"intervals":[],"end":{"streams":[],
            "sum_sent":{"start":0,"bytes":4194304,"bits_per_second":1e8,"retransmits":3,"sender":true},
            "sum_received":{"bytes":4194304,"bits_per_second":9.5e7,"sender":true}}}"#;
        let wanted = Reported { sent: 4_194_304, received: 4_194_304, retransmits: Some(3), bits_per_second: 9.5e7 };
        assert_eq!(read_report(text).expect("a report"), wanted);
        for bad in [&br#"{"start":{},"end":{},"error":"unable to connect"}"#[..], br#"{"end":{}}"#, b"", b"iperf3: no"]
        {
            assert!(read_report(bad).is_err());
        }
    }
}
