//! What a malicious or broken block backend does.

/// One way to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hostile {
    /// A response's id is far outside the ring.
    IdOutOfRange,
    /// A response's id is in range, but that request is not outstanding; the true response is lost.
    IdNotOutstanding,
    /// A response carries the id of the response before it; the true one is lost.
    DuplicateId,
    /// A response's id is that of an earlier request in the same slot, which is in use again; the true one is lost.
    StaleId,
    /// A response names another operation.
    WrongOperation,
    /// `rsp_prod` jumps ahead of everything that was asked.
    ProducerAhead,
    /// `rsp_prod` runs backward.
    ProducerBackward,
    /// A response never comes.
    NoResponse,
    /// The data pages' grants stay mapped after the response.
    GrantKeptMapped,
    /// As [`Hostile::GrantKeptMapped`], and they stay mapped when the backend closes, until it is started again.
    GrantKeptForGood,
    /// A feature key or a size is 0, negative, huge or not a number: one of those that the backend writes when it offers
    /// its keys, or when the frontend connects.
    AbsurdKeys,
    /// The backend's state skips steps: Connected before the frontend offered a ring.
    StateSkip,
    /// The backend's state flaps while connected.
    StateFlap,
    /// The backend and its directory vanish with requests in flight.
    Vanish,
    /// Events without end and without reason.
    EventStorm,
    /// A response's bytes change after it was published, a little later: it may be taken already, or just be read.
    RewriteResponse,
    /// A status that does not exist.
    BadStatus,
    /// The backend's state is written again and again: a storm of watch events.
    WatchStorm,
}

impl Hostile {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::IdOutOfRange,
        Self::IdNotOutstanding,
        Self::DuplicateId,
        Self::StaleId,
        Self::WrongOperation,
        Self::ProducerAhead,
        Self::ProducerBackward,
        Self::NoResponse,
        Self::GrantKeptMapped,
        Self::GrantKeptForGood,
        Self::AbsurdKeys,
        Self::StateSkip,
        Self::StateFlap,
        Self::Vanish,
        Self::EventStorm,
        Self::RewriteResponse,
        Self::BadStatus,
        Self::WatchStorm,
    ];
}
