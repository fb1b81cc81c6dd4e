//! What a malicious or broken network backend does.

/// One way to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetHostile {
    /// A transmit response's id is far outside of what was asked.
    TxIdOutOfRange,
    /// A transmit response's id is in range, but not outstanding; the true response is lost.
    TxIdNotOutstanding,
    /// A transmit response carries the id of the one before; the true one is lost.
    TxDuplicateId,
    /// A status that does not exist.
    TxBadStatus,
    /// `NETIF_RSP_NULL` where there was no extra info.
    TxNullStatus,
    /// `rsp_prod` of the transmit ring jumps ahead of everything that was asked.
    TxProducerAhead,
    /// `rsp_prod` of the transmit ring runs backward.
    TxProducerBackward,
    /// A transmit response never comes.
    TxNoResponse,
    /// The frame's pages stay mapped after the response.
    TxKeepGrant,
    /// A receive response's id is not that of its slot.
    RxWrongId,
    /// `offset + status` lies beyond the page.
    RxBeyondPage,
    /// A status below zero.
    RxErrorStatus,
    /// A frame of a few bytes: less than an Ethernet header.
    RxRunt,
    /// Extra info of a type that does not exist.
    RxBadExtra,
    /// Extra info that always says that more follows.
    RxEndlessExtras,
    /// A frame whose slots always say that more follows.
    RxEndlessChain,
    /// `rsp_prod` of the receive ring jumps ahead of every buffer that was given.
    RxProducerAhead,
    /// `rsp_prod` of the receive ring runs backward.
    RxProducerBackward,
    /// The buffer stays mapped after the response, and is written to again later.
    RxKeepGrant,
    /// Segmentation info with a size of 0.
    RxGsoSizeZero,
    /// Segmentation info of a type that does not exist.
    RxGsoBadType,
    /// A blank checksum and segmentation info on bytes that are no IP packet.
    RxChecksumNonsense,
    /// The response's bytes change after it was published.
    RxRewriteResponse,
    /// A control response with another id.
    CtrlWrongId,
    /// A control request is never answered.
    CtrlNoResponse,
    /// Events without end and without reason.
    EventStorm,
    /// Feature keys, queue counts and sizes are 0, negative, huge or not numbers. Decided at the next handshake.
    AbsurdKeys,
    /// `multi-queue-max-queues` is another number at every handshake.
    QueueCountChanges,
    /// The backend's state skips steps: Connected before the frontend offered rings.
    StateSkip,
    /// The backend's state flaps while connected.
    StateFlap,
    /// The backend's state is written again and again: a storm of watch events.
    WatchStorm,
    /// The backend and its directory vanish with frames in flight.
    Vanish,
}

impl NetHostile {
    /// All of them.
    pub const ALL: [Self; 32] = [
        Self::TxIdOutOfRange,
        Self::TxIdNotOutstanding,
        Self::TxDuplicateId,
        Self::TxBadStatus,
        Self::TxNullStatus,
        Self::TxProducerAhead,
        Self::TxProducerBackward,
        Self::TxNoResponse,
        Self::TxKeepGrant,
        Self::RxWrongId,
        Self::RxBeyondPage,
        Self::RxErrorStatus,
        Self::RxRunt,
        Self::RxBadExtra,
        Self::RxEndlessExtras,
        Self::RxEndlessChain,
        Self::RxProducerAhead,
        Self::RxProducerBackward,
        Self::RxKeepGrant,
        Self::RxGsoSizeZero,
        Self::RxGsoBadType,
        Self::RxChecksumNonsense,
        Self::RxRewriteResponse,
        Self::CtrlWrongId,
        Self::CtrlNoResponse,
        Self::EventStorm,
        Self::AbsurdKeys,
        Self::QueueCountChanges,
        Self::StateSkip,
        Self::StateFlap,
        Self::WatchStorm,
        Self::Vanish,
    ];
}
