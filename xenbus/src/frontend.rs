//! The state machine by which a frontend connects to its backend: pure, told what happened, says what to do next.
//!
//! The peer may skip states, repeat them, flap, or go away; whatever it does, each event yields at most one action and
//! every action is finished by the caller before the next event is given. Waiting is the caller's: it gives
//! [`Frontend::timed_out`] when its bound has passed.
//!
//! ```text
//! own state      backend            action
//! Initialising   InitWait           Publish   (rings, event channel; then own = Initialised)
//! Initialised    Connected          Attach    (read the backend's parameters; then own = Connected)
//! Connected      Connected again    Refresh   (parameters may have changed: a disk was resized)
//! Connected      Closing, offline   Eject     (asks Windows; I/O goes on until Windows agrees)
//! Connected      Closing, online    Closing, Closed; Detach when the backend is Closed, then connect again
//! Connected      Closed, InitWait   Detach    (the backend restarts: keep requests, connect again)
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

/// How often connecting may fail before the frontend stops trying until the backend restarts.
pub const ATTEMPTS: u32 = 5;

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

    /// Whether requests can be served.
    pub fn is_connected(&self) -> bool {
        self.own == State::Connected && self.attached
    }

    /// Whether connecting was given up until the backend restarts.
    pub const fn has_failed(&self) -> bool {
        self.failures >= ATTEMPTS
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
        if before != state && state == State::InitWait && matches!(self.own, State::Closing | State::Closed) {
            // It started again by itself, so old failures no longer count. A backend that only follows ours comes to
            // Closed after we close, and to InitWait after we say Initialising.
            self.failures = 0;
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
                self.failures = 0;
                return Action::Write(State::Connected);
            }
            (Some(Action::Attach), false) if self.attached => {
                // The backend is connected and has our pages. They are ours again when it has seen us closing.
                self.failures += 1;
                return Action::Write(State::Closing);
            }
            (Some(Action::Publish | Action::Attach), false) => {
                self.failures += 1;
                if self.attached || self.own != State::Initialising {
                    return self.detach();
                }
                // Nobody will say more before we do: try again at once, ATTEMPTS times in all.
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

    /// The caller's bound for the peer's next step has passed. While closing, the step is taken as made.
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
        Action::Wait
    }

    /// The domain was resumed elsewhere: all that was connected is void, the caller has torn it down and will give the
    /// new backend's state.
    pub fn resumed(&mut self) {
        let goal = self.goal;
        *self = Self::new();
        self.goal = goal;
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
                if self.has_failed() || (self.own == State::Closed && self.peer == State::Closing) {
                    // A backend that is closing has to see our Closed first: overwritten too early, it waits for ever.
                    return Action::Wait;
                }
                if self.attached {
                    return self.detach();
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
                    State::InitWait | State::Initialised => self.begin(Action::Publish),
                    _ => Action::Wait,
                }
            }
            State::Initialised => match self.peer {
                State::Connected if self.attached => self.begin(Action::Attach),
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
    fn failures_end_until_the_backend_restarts() {
        let mut f = Frontend::new();
        let mut publishes = 0;
        for _ in 0..20 {
            let mut action = f.backend(State::InitWait, true);
            for _ in 0..8 {
                action = match action {
                    Action::Write(state) => f.state_written(state),
                    Action::Publish => {
                        publishes += 1;
                        f.done(false)
                    }
                    Action::Detach => f.done(true),
                    _ => break,
                };
            }
        }
        assert_eq!(publishes, ATTEMPTS);
        assert!(f.has_failed());
    }

    /// A backend as Linux's is: it answers our state whenever we rest, and nothing else happens.
    fn follow(f: &mut Frontend, mut action: Action, fails: impl Fn(Action) -> bool) {
        for _ in 0..1000 {
            action = match action {
                Action::Write(state) => f.state_written(state),
                Action::Publish | Action::Attach | Action::Detach => f.done(!fails(action)),
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
