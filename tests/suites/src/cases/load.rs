//! Random, verified I/O on one disk with many requests in flight: the work horse of the other cases.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use rand::RngExt;

use crate::case::{Ctx, Failure};
use crate::guest::{Buffer, Completion, Disk, Io, Op};
use crate::oracle::{Oracle, UNIT};

/// Shape of a load.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Requests kept in flight.
    pub depth: usize,
    /// Largest request in bytes.
    pub largest: usize,
    /// Of 100 requests, how many write.
    pub writes: u32,
    /// Buffers may start anywhere in a page, not only on a sector boundary.
    pub misaligned: bool,
    /// Of 100 requests, how many flush.
    pub flushes: u32,
    /// Of 100 requests, how many unmap.
    pub unmaps: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self { depth: 8, largest: 256 << 10, writes: 50, misaligned: true, flushes: 2, unmaps: 0 }
    }
}

struct Flight {
    io: Io,
    op: Op,
    first: usize,
    count: usize,
    stamp: u32,
}

/// A load on one disk.
pub struct Load {
    disk: Disk,
    shape: Shape,
    oracle: Oracle,
    flights: Vec<Flight>,
    /// What was wrong with the first read that gave wrong data to [`Load::drain_any`].
    wrong: Option<String>,
    done: u64,
    bytes: u64,
}

impl Load {
    /// A load on a disk that holds zeros.
    pub fn new(disk: Disk, shape: Shape) -> Self {
        let units = disk.units();
        let oracle = Oracle::new(disk.index(), units);
        Self { disk, shape, oracle, flights: Vec::new(), wrong: None, done: 0, bytes: 0 }
    }

    /// The disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Requests finished.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Bytes moved.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps the depth until `requests` more have finished; each read is verified.
    ///
    /// # Errors
    /// The first request that failed or data that is wrong.
    pub fn run(&mut self, ctx: &mut Ctx<'_>, requests: u64) -> Result<(), Failure> {
        let until = self.done + requests;
        while self.done < until {
            while self.flights.len() < self.shape.depth {
                if !self.submit_one(ctx) {
                    break;
                }
            }
            self.reap_one(ctx)?;
        }
        Ok(())
    }

    /// Windows knows that the disk has this size now. Nothing is in flight.
    pub fn resized(&mut self, units: usize) {
        self.oracle.resize(units);
    }

    /// Fills the queue and returns with the requests in flight: the depth, unless place after place overlaps what is in
    /// flight already.
    pub fn fill_queue(&mut self, ctx: &mut Ctx<'_>) {
        let mut overlaps = 0;
        while self.flights.len() < self.shape.depth && overlaps < 64 {
            overlaps = if self.submit_one(ctx) { 0 } else { overlaps + 1 };
        }
    }

    /// Waits for everything in flight.
    ///
    /// # Errors
    /// As [`Load::run`].
    pub fn drain(&mut self, ctx: &mut Ctx<'_>) -> Result<(), Failure> {
        while !self.flights.is_empty() {
            self.reap_one(ctx)?;
        }
        Ok(())
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Waits for everything in flight, whatever its result: for backends that are allowed to fail it. Units whose write
    /// failed are not checked from then on, until they are written again. Returns how many requests failed.
    pub fn drain_any(&mut self) -> u64 {
        self.drain_if(|_| true)
    }

    /// As [`Load::drain_any`], but a read that succeeds must have the right data.
    ///
    /// # Errors
    /// The first read whose data is wrong.
    pub fn drain_checked(&mut self) -> Result<u64, Failure> {
        let failed = self.drain_any();
        self.wrong.take().map_or(Ok(failed), |text| Err(Failure(text)))
    }

    /// As [`Load::drain_any`], but takes only what has ended, and leaves the rest in flight.
    pub fn drain_ended(&mut self) -> u64 {
        self.drain_if(|flight| flight.io.is_done())
    }

    /// As [`Load::drain_ended`], but a read with wrong data fails.
    ///
    /// # Errors
    /// The first read whose data is wrong.
    pub fn drain_ended_checked(&mut self) -> Result<u64, Failure> {
        let failed = self.drain_ended();
        self.wrong.take().map_or(Ok(failed), |text| Err(Failure(text)))
    }

    fn drain_if(&mut self, take: impl Fn(&Flight) -> bool) -> u64 {
        let mut failed = 0;
        let (ended, rest): (Vec<_>, Vec<_>) = core::mem::take(&mut self.flights).into_iter().partition(take);
        self.flights = rest;
        for flight in ended {
            let completion = flight.io.wait();
            self.done += 1;
            if completion.ok() {
                match flight.op {
                    Op::Write => self.oracle.wrote(flight.first, flight.count, flight.stamp),
                    Op::Unmap => self.oracle.wrote(flight.first, flight.count, 0),
                    Op::Read => {
                        let check = self.oracle.check(flight.first, completion.buffer.bytes());
                        self.wrong = self.wrong.take().or(check.err());
                    }
                    Op::Flush => {}
                }
            } else {
                failed += 1;
                if matches!(flight.op, Op::Write | Op::Unmap) {
                    self.oracle.forget(flight.first, flight.count);
                }
            }
        }
        failed
    }

    /// Drains, then reads the whole disk through the guest and compares it, and compares what dom0 sees.
    ///
    /// # Errors
    /// The first unit that is wrong.
    pub fn verify_all(&mut self, ctx: &mut Ctx<'_>) -> Result<(), Failure> {
        self.verify(ctx, true)
    }

    /// As [`Load::verify_all`] without dom0's view: for disks that dom0 cannot look at while they are used.
    ///
    /// # Errors
    /// The first unit that is wrong.
    pub fn verify_guest(&mut self, ctx: &mut Ctx<'_>) -> Result<(), Failure> {
        self.verify(ctx, false)
    }

    fn verify(&mut self, ctx: &mut Ctx<'_>, in_dom0_too: bool) -> Result<(), Failure> {
        self.drain(ctx)?;
        self.disk.flush().expect_ok("flush")?;
        let step = (1 << 20) / UNIT;
        let mut first = 0;
        while first < self.oracle.units() {
            let count = step.min(self.oracle.units() - first);
            let completion = self.disk.read(first, Buffer::new(count * UNIT, 0)).expect_ok("read")?;
            self.oracle.check(first, completion.buffer.bytes()).map_err(|text| format!("guest's view: {text}"))?;
            if in_dom0_too {
                let mut backing = alloc::vec![0; count * UNIT];
                ctx.world.read_backing(self.disk.index(), first as u64, &mut backing);
                self.oracle.check(first, &backing).map_err(|text| format!("dom0's view: {text}"))?;
            }
            first += count;
        }
        ctx.count("units verified", self.oracle.units() as u64);
        Ok(())
    }

    fn submit_one(&mut self, ctx: &mut Ctx<'_>) -> bool {
        let dice = ctx.rng.random_range(0..100);
        let op = if dice < self.shape.writes {
            Op::Write
        } else if dice < self.shape.writes + self.shape.flushes {
            Op::Flush
        } else if dice < self.shape.writes + self.shape.flushes + self.shape.unmaps {
            Op::Unmap
        } else {
            Op::Read
        };
        if op == Op::Flush {
            let io = self.disk.submit_flush();
            self.flights.push(Flight { io, op, first: 0, count: 0, stamp: 0 });
            return true;
        }
        let per_sector = self.disk.sector_size() / UNIT;
        let largest = (self.shape.largest / self.disk.sector_size()).max(1);
        // Small requests are as likely as large ones.
        let limit = 1_usize << ctx.rng.random_range(0..=largest.ilog2());
        // A hostile backend may offer a disk that is smaller than that.
        let count = (ctx.rng.random_range(1..=limit) * per_sector).min(self.oracle.units());
        let places = (self.oracle.units() - count) / per_sector + 1;
        let first = ctx.rng.random_range(0..places) * per_sector;
        if self.overlaps(op, first, count) {
            return false;
        }
        let misalign =
            if self.shape.misaligned && ctx.rng.random_bool(0.3) { ctx.rng.random_range(0..1024_usize) * 4 } else { 0 };
        let (io, stamp) = match op {
            Op::Write => {
                let stamp = self.oracle.fresh_stamp();
                let mut buffer = Buffer::new(count * UNIT, misalign);
                self.oracle.fill(first, stamp, buffer.bytes_mut());
                (self.disk.submit_write(first, buffer), stamp)
            }
            Op::Unmap => (self.disk.submit_unmap(first, count), 0),
            _ => (self.disk.submit_read(first, Buffer::new(count * UNIT, misalign)), 0),
        };
        self.flights.push(Flight { io, op, first, count, stamp });
        true
    }

    /// Whether the outcome would depend on an order that nobody promises.
    fn overlaps(&self, op: Op, first: usize, count: usize) -> bool {
        self.flights.iter().any(|flight| {
            (op != Op::Read || flight.op != Op::Read)
                && flight.first < first + count
                && first < flight.first + flight.count
        })
    }

    /// Takes the first request that is done, or waits for the oldest.
    fn reap_one(&mut self, ctx: &mut Ctx<'_>) -> Result<(), Failure> {
        let index = self.flights.iter().position(|flight| flight.io.is_done()).unwrap_or(0);
        let flight = self.flights.remove(index);
        let completion: Completion = flight.io.wait();
        let what = format!("{:?} of {} units at {}", flight.op, flight.count, flight.first);
        let completion = completion.expect_ok(&what)?;
        match flight.op {
            Op::Read => self.oracle.check(flight.first, completion.buffer.bytes())?,
            Op::Write => self.oracle.wrote(flight.first, flight.count, flight.stamp),
            Op::Unmap => self.oracle.wrote(flight.first, flight.count, 0),
            Op::Flush => {}
        }
        self.done += 1;
        self.bytes += (flight.count * UNIT) as u64;
        ctx.count("requests verified", 1);
        Ok(())
    }
}
