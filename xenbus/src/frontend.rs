//! The state machine by which a frontend connects to its backend: pure, told what happened, says what to do next.
//!
//! The peer may skip states, repeat them, flap, or go away; whatever it does, each event yields at most one action and
//! every action is finished by the caller before the next event is given. Waiting is the caller's:
//! [`Frontend::patience`] says for what and how long, and [`Frontend::timed_out`] is given when that has passed.
//!
//! # Failures
//! A ring that the peer broke ([`Frontend::fault`]), a ring that could not be published, parameters that could not be
//! used and a connection that did not come in time are all one kind of failure. After each the connection is closed in
//! order (Closing, Closed, Detach), then the frontend rests, 1, 2, 4, 8 seconds, and connects again once the backend
//! offers itself. After [`ATTEMPTS`] failures it stops: a device that was connected before is lost for good
//! ([`Frontend::is_lost`]), one that never was gets another chance when dom0 starts its backend again. A connection that
//! has then served for [`TRUST_SECONDS`] without a failure wipes the slate clean.
//!
//! ```text
//! own state      backend            action
//! Initialising   InitWait           Publish   (rings, event channel; then own = Initialised)
//! Initialised    Connected          Attach    (read the backend's parameters; then own = Connected)
//! Initialised    Closing            Closing, Closed; Detach when the backend is Closed, then connect again
//! Connected      Connected again    Refresh   (parameters may have changed: a disk was resized)
//! Connected      Closing, offline   Eject     (asks Windows; I/O goes on until Windows agrees)
//! Connected      Closing, online    Closing, Closed; Detach when the backend is Closed, then connect again
//! Connected      Closed, InitWait   Detach    (the backend restarts: keep requests, connect again)
//! Connected      any, ring broken   Closing, Closed; Detach, rest, then connect again
//! any            gone for good      Vanished
//! ```

use xen_abi::xenbus::XenbusState as State;

/// What the caller has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: wait for the next event.
    Wait,
    /// Write this as the frontend's state, then call [`Frontend::state_written`].
    Write(State),
    /// Set rings and event channel up and write them into the store, then call [`Frontend::done`].
    Publish,
    /// Read the backend's parameters and start the ring, then call [`Frontend::done`].
    Attach,
    /// Read the backend's parameters again.
    Refresh,
    /// Stop the ring, keep every request, free rings and event channel, then call [`Frontend::done`].
    Detach,
    /// Ask for the device to be ejected; it goes on working until then.
    Eject,
    /// The backend is gone for good: no request will be answered.
    Vanished,
    /// A [`Frontend::close`] is complete: free everything.
    Closed,
}

/// Failures after which the frontend stops trying.
pub const ATTEMPTS: u32 = 5;
/// Seconds that a backend has for each step of a close that a failure made necessary.
pub const ANSWER_SECONDS: u32 = 5;
/// Seconds that a backend has to be connected again after a failure.
pub const CONNECTION_SECONDS: u32 = 60;
/// Seconds of service without a failure after which earlier ones no longer count.
pub const TRUST_SECONDS: u32 = 600;
/// Seconds that a backend has to leave a connection that an earlier driver left behind.
pub const STALE_SECONDS: u32 = 10;

/// What a frontend with a bound waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The backend leaves a connection that an earlier driver left behind.
    Stale,
    /// The backend follows a close.
    Answer,
    /// The rest before the next attempt.
    Rest,
    /// The backend offers itself and connects.
    Connection,
    /// The connection proves itself.
    Trust,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Connect,
    Close,
}

/// The state machine.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not a state in disguise")]
pub struct Frontend {
    own: State,
    peer: State,
    online: bool,
    goal: Goal,
    /// The rings are published: something has to be detached.
    attached: bool,
    /// An action that [`Frontend::done`] has to finish.
    pending: Option<Action>,
    failures: u32,
    /// A failure is being dealt with: what the backend does about it is bounded.
    faulted: bool,
    /// The rest before the next attempt is due.
    rest: bool,
    /// Was connected at least once.
    served: bool,
    eject_asked: bool,
    vanished: bool,
    /// A backend that an earlier driver left connected is closed before a new connection.
    stale: bool,
}

impl Default for Frontend {
    fn default() -> Self {
        Self::new()
    }
}

impl Frontend {
    /// A frontend that wants to connect.
    pub const fn new() -> Self {
        Self {
            own: State::Unknown,
            peer: State::Unknown,
            online: true,
            goal: Goal::Connect,
            attached: false,
            pending: None,
            failures: 0,
            faulted: false,
            rest: false,
            served: false,
            eject_asked: false,
            vanished: false,
            stale: false,
        }
    }

    /// Our state.
    pub const fn own(&self) -> State {
        self.own
    }

    /// The backend's state, as last told.
    pub const fn peer(&self) -> State {
        self.peer
    }

    /// Whether the backend has not been offered anything since it was first seen.
    pub const fn offered_nothing(&self) -> bool {
        matches!(self.own, State::Unknown | State::Initialising)
    }

    /// Whether requests can be served.
    pub fn is_connected(&self) -> bool {
        self.own == State::Connected && self.attached
    }

    /// Whether the attempts are used up.
    pub const fn has_failed(&self) -> bool {
        self.failures >= ATTEMPTS
    }

    /// Whether a device that was connected before has failed for good: nothing is connected any more, and nothing will
    /// be.
    pub const fn is_lost(&self) -> bool {
        self.has_failed() && self.served && !self.attached
    }

    /// Failures that count.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// What the frontend waits for with a bound, and how many seconds in all; [`Frontend::timed_out`] is due when they
    /// have passed and this is still what it waits for. None: it waits for as long as it takes.
    pub fn patience(&self) -> Option<(Wait, u32)> {
        if self.goal == Goal::Close || self.pending.is_some() || self.vanished {
            return None;
        }
        if self.stale {
            return Some((Wait::Stale, STALE_SECONDS));
        }
        if !self.faulted {
            return (self.failures > 0 && self.is_connected()).then_some((Wait::Trust, TRUST_SECONDS));
        }
        match self.own {
            State::Closing => Some((Wait::Answer, ANSWER_SECONDS)),
            State::Closed if self.attached => Some((Wait::Answer, ANSWER_SECONDS)),
            _ if self.has_failed() => None,
            _ if self.rest => Some((Wait::Rest, 1 << self.failures.saturating_sub(1).min(ATTEMPTS))),
            _ => Some((Wait::Connection, CONNECTION_SECONDS)),
        }
    }

    /// Whether the backend is gone for good.
    pub const fn has_vanished(&self) -> bool {
        self.vanished
    }

    /// The backend's state was read: `state`, [`State::Unknown`] where the node is missing; `online` as its `online`
    /// node says (false where that is missing too).
    pub fn backend(&mut self, state: State, online: bool) -> Action {
        let before = self.peer;
        self.peer = state;
        self.online = online;
        if before != state && matches!(state, State::InitWait | State::Closed) {
            // The backend started again or came to rest: an old wish to eject no longer counts.
            self.eject_asked = false;
        }
        if before != state
            && state == State::InitWait
            && matches!(self.own, State::Closing | State::Closed)
            && self.has_failed()
            && !self.served
        {
            // It started again by itself, and no request ever depended on it: old failures no longer count. A backend
            // that only follows ours comes to Closed after we close, and to InitWait after we say Initialising.
            self.failures = 0;
            self.faulted = false;
            self.rest = false;
        }
        if state == State::Connected && before == State::Connected && self.is_connected() && self.goal == Goal::Connect
        {
            return Action::Refresh;
        }
        self.next()
    }

    /// The state of the last [`Action::Write`] is in the store.
    pub fn state_written(&mut self, state: State) -> Action {
        self.own = state;
        self.next()
    }

    /// [`Action::Publish`], [`Action::Attach`] or [`Action::Detach`] is finished.
    pub fn done(&mut self, ok: bool) -> Action {
        match (self.pending.take(), ok) {
            (Some(Action::Publish), true) => {
                self.attached = true;
                return Action::Write(State::Initialised);
            }
            (Some(Action::Attach), true) => {
                self.served = true;
                self.faulted = false;
                return Action::Write(State::Connected);
            }
            (Some(Action::Attach), false) if self.attached => {
                // The backend is connected and has our pages. They are ours again when it has seen us closing.
                self.failed();
                return Action::Write(State::Closing);
            }
            (Some(Action::Publish | Action::Attach), false) => {
                self.failed();
                if self.attached || self.own != State::Initialising {
                    return self.detach();
                }
            }
            (Some(Action::Detach), _) => {
                self.attached = false;
                if self.goal == Goal::Close && self.own == State::Closed {
                    return self.closed();
                }
            }
            _ => {}
        }
        self.next()
    }

    /// Closes the connection in order. The last action of it is [`Action::Closed`].
    pub fn close(&mut self) -> Action {
        self.goal = Goal::Close;
        self.next()
    }

    /// The peer broke the ring, or left it unanswered for too long: it is closed, and connected again if the failures
    /// allow that. Nothing happens where the connection is being closed already.
    pub fn fault(&mut self) -> Action {
        let in_use = matches!(self.own, State::Initialised | State::Connected) && self.attached;
        if self.goal == Goal::Close || self.pending.is_some() || !in_use {
            return Action::Wait;
        }
        self.failed();
        Action::Write(State::Closing)
    }

    /// Closes the connection and makes it again, because the backend reads what changed only then. It has the same bounds
    /// as after a failure, but none is counted. Nothing happens where there is no connection.
    pub fn reconnect(&mut self) -> Action {
        let in_use = matches!(self.own, State::Initialised | State::Connected) && self.attached;
        if self.goal == Goal::Close || self.pending.is_some() || !in_use {
            return Action::Wait;
        }
        self.faulted = true;
        Action::Write(State::Closing)
    }

    fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.faulted = true;
        self.rest = true;
    }

    /// The bound of [`Frontend::patience`] has passed. While closing for good, the peer's step is taken as made.
    pub fn timed_out(&mut self) -> Action {
        if self.goal == Goal::Close {
            return match self.own {
                State::Closing => Action::Write(State::Closed),
                _ => self.closed(),
            };
        }
        if self.stale {
            // The backend does not leave a connection that nobody knows; start over regardless.
            self.stale = false;
            return Action::Write(State::Initialising);
        }
        match self.patience() {
            Some((Wait::Rest, _)) => {
                self.rest = false;
                self.next()
            }
            // The peer does not follow: the step is taken as made.
            Some((Wait::Answer, _)) if self.own == State::Closing => Action::Write(State::Closed),
            Some((Wait::Answer, _)) => self.detach(),
            Some((Wait::Connection, _)) => {
                self.failed();
                if self.attached { Action::Write(State::Closing) } else { self.next() }
            }
            Some((Wait::Trust, _)) => {
                self.failures = 0;
                Action::Wait
            }
            Some((Wait::Stale, _)) | None => Action::Wait,
        }
    }

    /// The domain was resumed elsewhere: all that was connected is void, the caller has torn it down and will give the
    /// new backend's state. What an earlier backend did is not held against the new one, but a device that is lost stays
    /// so: its requests were failed.
    pub fn resumed(&mut self) {
        let (goal, lost) = (self.goal, self.has_failed() && self.served);
        *self = Self { goal, served: self.served, failures: if lost { ATTEMPTS } else { 0 }, ..Self::new() };
    }

    fn detach(&mut self) -> Action {
        self.pending = Some(Action::Detach);
        Action::Detach
    }

    fn begin(&mut self, action: Action) -> Action {
        self.pending = Some(action);
        action
    }

    fn closed(&mut self) -> Action {
        if self.attached {
            return self.detach();
        }
        self.own = State::Closed;
        Action::Closed
    }

    fn next(&mut self) -> Action {
        if self.pending.is_some() {
            // The caller is in the middle of something; `done` comes back here.
            return Action::Wait;
        }
        match self.goal {
            Goal::Close => self.next_closing(),
            Goal::Connect => self.next_connecting(),
        }
    }

    fn next_closing(&mut self) -> Action {
        match (self.own, self.peer) {
            // Nobody there to wait for, or nobody that waits for us.
            (_, State::Unknown) | (State::Closed, State::Closed | State::InitWait | State::Initialising) => {
                self.closed()
            }
            (State::Closing, State::Closing | State::Closed | State::InitWait) => Action::Write(State::Closed),
            (State::Closed | State::Closing, _) => Action::Wait,
            _ => Action::Write(State::Closing),
        }
    }

    fn next_connecting(&mut self) -> Action {
        if self.peer == State::Unknown || (self.peer == State::Closed && !self.online) {
            if self.attached {
                return self.detach();
            }
            let was_there = !matches!(self.own, State::Unknown | State::Initialising);
            if was_there && !self.vanished {
                self.vanished = true;
                return Action::Vanished;
            }
            return Action::Wait;
        }
        match self.own {
            State::Unknown | State::Closed => {
                if self.own == State::Unknown && matches!(self.peer, State::Connected | State::Closing) {
                    self.stale = true;
                    return Action::Write(State::Closing);
                }
                let follows = !matches!(self.peer, State::Initialised | State::Connected | State::Closing);
                if self.own == State::Closed && !follows {
                    // It has to see our Closed first: overwritten too early, it waits for ever.
                    return Action::Wait;
                }
                if self.attached {
                    return self.detach();
                }
                if self.has_failed() || self.rest {
                    return Action::Wait;
                }
                self.stale = false;
                Action::Write(State::Initialising)
            }
            State::Closing => match self.peer {
                State::Closing | State::Closed | State::InitWait => Action::Write(State::Closed),
                _ => Action::Wait,
            },
            State::Initialising => {
                if self.has_failed() {
                    return Action::Write(State::Closing);
                }
                match self.peer {
                    _ if self.rest => Action::Wait,
                    State::InitWait | State::Initialised => self.begin(Action::Publish),
                    _ => Action::Wait,
                }
            }
            State::Initialised => match self.peer {
                State::Connected if self.attached => self.begin(Action::Attach),
                // It may have connected before it closed, which we need not have seen: as in Connected.
                State::Closing if self.attached => Action::Write(State::Closing),
                State::Closing | State::Closed => self.restart(),
                _ if !self.attached => self.restart(),
                _ => Action::Wait,
            },
            State::Connected => match self.peer {
                State::Closing if self.attached && !self.online && !self.eject_asked => {
                    self.eject_asked = true;
                    Action::Eject
                }
                // It means to come back. It answers what it has and lets go of the pages when it sees us closed; only
                // then are they ours again, so nothing is detached before.
                State::Closing if self.attached && self.online => Action::Write(State::Closing),
                State::Closed | State::InitWait | State::Initialising => self.restart(),
                _ if !self.attached => self.restart(),
                _ => Action::Wait,
            },
            _ => self.restart(),
        }
    }

    /// Frees what is published, then begins again from the right place.
    fn restart(&mut self) -> Action {
        if self.attached {
            return self.detach();
        }
        match self.peer {
            State::InitWait | State::Initialising | State::Closed => Action::Write(State::Initialising),
            _ => Action::Write(State::Closing),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// Finishes actions until the machine waits; what they were.
    fn run(f: &mut Frontend, first: Action) -> Vec<Action> {
        let mut seen = Vec::new();
        let mut action = first;
        for _ in 0..32 {
            seen.push(action);
            action = match action {
                Action::Write(state) => f.state_written(state),
                Action::Publish | Action::Attach | Action::Detach => f.done(true),
                _ => return seen,
            };
        }
        panic!("no rest: {seen:?}");
    }

    fn connect(f: &mut Frontend) {
        let action = f.backend(State::InitWait, true);
        run(f, action);
        let action = f.backend(State::Connected, true);
        run(f, action);
        assert!(f.is_connected());
    }

    #[test]
    fn connects_in_order() {
        let mut f = Frontend::new();
        let action = f.backend(State::Initialising, true);
        assert_eq!(run(&mut f, action), [Action::Write(State::Initialising), Action::Wait]);
        let action = f.backend(State::InitWait, true);
        assert_eq!(run(&mut f, action), [Action::Publish, Action::Write(State::Initialised), Action::Wait]);
        let action = f.backend(State::Connected, true);
        assert_eq!(run(&mut f, action), [Action::Attach, Action::Write(State::Connected), Action::Wait]);
    }

    #[test]
    fn a_repeated_connected_is_a_refresh() {
        let mut f = Frontend::new();
        connect(&mut f);
        assert_eq!(f.backend(State::Connected, true), Action::Refresh);
    }

    #[test]
    fn a_stale_connection_is_closed_first() {
        let mut f = Frontend::new();
        let action = f.backend(State::Connected, true);
        assert_eq!(run(&mut f, action), [Action::Write(State::Closing), Action::Wait]);
        let action = f.backend(State::Closing, true);
        let seen = run(&mut f, action);
        assert!(seen.contains(&Action::Write(State::Closed)), "{seen:?}");
        let action = f.backend(State::Closed, true);
        run(&mut f, action);
        connect(&mut f);
    }

    #[test]
    fn an_unplug_asks_windows_once_and_keeps_working() {
        let mut f = Frontend::new();
        connect(&mut f);
        assert_eq!(f.backend(State::Closing, false), Action::Eject);
        assert!(f.is_connected());
        assert_eq!(f.backend(State::Closing, false), Action::Wait);
        let action = f.close();
        assert_eq!(run(&mut f, action), [Action::Write(State::Closing), Action::Write(State::Closed), Action::Wait]);
        let action = f.backend(State::Closed, false);
        assert_eq!(run(&mut f, action), [Action::Detach, Action::Closed]);
    }

    #[test]
    fn a_restarting_backend_is_followed() {
        let mut f = Frontend::new();
        connect(&mut f);
        // Closed without a word before.
        let action = f.backend(State::Closed, true);
        assert_eq!(run(&mut f, action), [Action::Detach, Action::Write(State::Initialising), Action::Wait]);
        connect(&mut f);
        // And with the states in between skipped.
        let action = f.backend(State::InitWait, true);
        assert_eq!(
            run(&mut f, action),
            [
                Action::Detach,
                Action::Write(State::Initialising),
                Action::Publish,
                Action::Write(State::Initialised),
                Action::Wait
            ]
        );
    }

    #[test]
    fn a_vanished_backend_is_reported_once() {
        let mut f = Frontend::new();
        connect(&mut f);
        let action = f.backend(State::Unknown, false);
        assert_eq!(run(&mut f, action), [Action::Detach, Action::Vanished]);
        assert_eq!(f.backend(State::Unknown, false), Action::Wait);
        let action = f.close();
        assert_eq!(run(&mut f, action), [Action::Closed]);
    }

    #[test]
    fn failures_are_bounded_whatever_the_backend_says() {
        let mut f = Frontend::new();
        let (mut publishes, mut rests) = (0, Vec::new());
        for _ in 0..200 {
            let mut action = f.backend(State::InitWait, true);
            for _ in 0..8 {
                action = match action {
                    Action::Write(state) => f.state_written(state),
                    Action::Publish => {
                        publishes += 1;
                        f.done(false)
                    }
                    Action::Detach => f.done(true),
                    _ => match f.patience() {
                        None => break,
                        Some((wait, seconds)) => {
                            if wait == Wait::Rest {
                                rests.push(seconds);
                            }
                            f.timed_out()
                        }
                    },
                };
            }
        }
        assert_eq!(publishes, ATTEMPTS);
        assert_eq!(rests, [1, 2, 4, 8]);
        assert!(f.has_failed() && !f.is_lost());
    }

    /// A backend as Linux's is: it answers our state whenever we rest, and nothing else happens.
    fn follow(f: &mut Frontend, mut action: Action, fails: impl Fn(Action) -> bool) {
        for _ in 0..1000 {
            action = match action {
                Action::Write(state) => f.state_written(state),
                Action::Publish | Action::Attach | Action::Detach => f.done(!fails(action)),
                _ if matches!(f.patience(), Some((Wait::Rest, _))) => f.timed_out(),
                _ => {
                    let answer = match f.own() {
                        State::Initialising if f.peer() == State::Closed => State::InitWait,
                        State::Initialised => State::Connected,
                        state @ (State::Closing | State::Closed) => state,
                        _ => f.peer(),
                    };
                    if answer == f.peer() {
                        return;
                    }
                    f.backend(answer, true)
                }
            };
        }
        panic!("no rest: {f:?}");
    }

    #[test]
    fn what_fails_is_given_up_though_the_backend_follows() {
        for failing in [Action::Publish, Action::Attach] {
            let mut f = Frontend::new();
            let first = f.backend(State::InitWait, true);
            follow(&mut f, first, |action| action == failing);
            assert!(f.has_failed());
            assert_eq!((f.own(), f.peer()), (State::Closed, State::Closed));
            // Started again by dom0, it is given another chance.
            let first = f.backend(State::InitWait, true);
            follow(&mut f, first, |_| false);
            assert!(f.is_connected());
        }
    }

    #[test]
    fn a_broken_ring_is_closed_and_connected_again() {
        let mut f = Frontend::new();
        let first = f.backend(State::InitWait, true);
        follow(&mut f, first, |_| false);
        let first = f.fault();
        assert_eq!(run(&mut f, first), [Action::Write(State::Closing), Action::Wait]);
        assert_eq!(f.fault(), Action::Wait, "it is counted once");
        assert_eq!(f.patience(), Some((Wait::Answer, ANSWER_SECONDS)));
        let first = f.backend(State::Closing, true);
        assert_eq!(run(&mut f, first), [Action::Write(State::Closed), Action::Wait]);
        let first = f.backend(State::Closed, true);
        assert_eq!(run(&mut f, first), [Action::Detach, Action::Wait]);
        assert_eq!(f.patience(), Some((Wait::Rest, 1)));
        let first = f.timed_out();
        follow(&mut f, first, |_| false);
        assert!(f.is_connected());
        assert_eq!(f.patience(), Some((Wait::Trust, TRUST_SECONDS)));
        assert_eq!(f.failures(), 1);
        assert_eq!(f.timed_out(), Action::Wait);
        assert_eq!((f.failures(), f.patience()), (0, None));
    }

    #[test]
    fn a_backend_that_always_lies_loses_the_device() {
        let mut f = Frontend::new();
        let mut action = f.backend(State::InitWait, true);
        for _ in 0..20 {
            follow(&mut f, action, |_| false);
            action = f.fault();
        }
        assert!(f.is_lost());
        assert_eq!((f.own(), f.failures()), (State::Closed, ATTEMPTS));
        // Nothing that the backend does brings it back.
        for state in [State::InitWait, State::Connected, State::Closed, State::InitWait] {
            assert_eq!(f.backend(state, true), Action::Wait);
        }
        f.resumed();
        assert_eq!(f.backend(State::InitWait, true), Action::Wait);
        assert!(f.is_lost());
        let first = f.close();
        assert_eq!(run(&mut f, first).last(), Some(&Action::Closed));
    }

    #[test]
    fn a_peer_that_does_not_follow_is_left() {
        let mut f = Frontend::new();
        let first = f.backend(State::InitWait, true);
        follow(&mut f, first, |_| false);
        let mut action = f.fault();
        let mut seen = Vec::new();
        for _ in 0..40 {
            seen.extend(run(&mut f, action));
            if f.patience().is_none() {
                break;
            }
            action = f.timed_out();
        }
        assert!(f.is_lost());
        let steps: Vec<_> = seen.into_iter().filter(|action| *action != Action::Wait).collect();
        assert_eq!(steps, [Action::Write(State::Closing), Action::Write(State::Closed), Action::Detach]);
    }

    #[test]
    fn a_backend_that_closes_to_come_back_is_followed() {
        let mut f = Frontend::new();
        let first = f.backend(State::InitWait, true);
        follow(&mut f, first, |_| false);
        assert!(f.is_connected());
        // Both states are written before anything is detached.
        let first = f.backend(State::Closing, true);
        assert_eq!(run(&mut f, first), [Action::Write(State::Closing), Action::Write(State::Closed), Action::Wait]);
        let first = f.backend(State::Closed, true);
        assert_eq!(run(&mut f, first), [Action::Detach, Action::Write(State::Initialising), Action::Wait]);
        let first = f.backend(State::InitWait, true);
        follow(&mut f, first, |_| false);
        assert!(f.is_connected());
    }

    #[test]
    fn a_backend_that_closes_before_its_connection_was_seen_lets_go_first() {
        let mut f = Frontend::new();
        let first = f.backend(State::InitWait, true);
        run(&mut f, first);
        assert_eq!(f.own(), State::Initialised);
        // What is published may be in use, so it is not detached before the backend has seen us closed.
        let first = f.backend(State::Closing, true);
        assert_eq!(run(&mut f, first), [Action::Write(State::Closing), Action::Write(State::Closed), Action::Wait]);
        let first = f.backend(State::Closed, true);
        assert_eq!(run(&mut f, first), [Action::Detach, Action::Write(State::Initialising), Action::Wait]);
        let first = f.backend(State::InitWait, true);
        follow(&mut f, first, |_| false);
        assert!(f.is_connected());
        assert_eq!(f.failures(), 0);
    }

    #[test]
    fn closing_does_not_depend_on_the_peer() {
        let mut f = Frontend::new();
        connect(&mut f);
        let action = f.close();
        assert_eq!(run(&mut f, action), [Action::Write(State::Closing), Action::Wait]);
        let action = f.timed_out();
        assert_eq!(run(&mut f, action), [Action::Write(State::Closed), Action::Wait]);
        let action = f.timed_out();
        assert_eq!(run(&mut f, action), [Action::Detach, Action::Closed]);
    }

    #[test]
    fn any_sequence_of_states_comes_to_rest() {
        // A cheap generator is enough: the point is that no sequence loops or leaves an action unfinished.
        let mut seed = 1_u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as u32
        };
        let states = [
            State::Unknown,
            State::Initialising,
            State::InitWait,
            State::Initialised,
            State::Connected,
            State::Closing,
            State::Closed,
            State::Reconfiguring,
            State::Reconfigured,
        ];
        for _ in 0..2000 {
            let mut f = Frontend::new();
            for _ in 0..40 {
                let state = states[random() as usize % states.len()];
                let mut action = f.backend(state, random() & 1 == 0);
                let mut steps = 0;
                loop {
                    action = match action {
                        Action::Write(state) => f.state_written(state),
                        Action::Publish | Action::Attach | Action::Detach => f.done(random() & 3 != 0),
                        _ => break,
                    };
                    steps += 1;
                    assert!(steps < 64, "no rest in {f:?}");
                }
                if random() & 7 == 0 {
                    let action = f.fault();
                    assert!(matches!(action, Action::Wait | Action::Write(State::Closing)));
                    if let Action::Write(state) = action {
                        f.state_written(state);
                    }
                }
            }
            let mut action = f.close();
            for _ in 0..16 {
                action = match action {
                    Action::Write(state) => f.state_written(state),
                    Action::Detach => f.done(true),
                    Action::Wait => f.timed_out(),
                    Action::Closed => break,
                    other => panic!("{other:?} while closing"),
                };
            }
            assert_eq!(action, Action::Closed);
        }
    }
}
