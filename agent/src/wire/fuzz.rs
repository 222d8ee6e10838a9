//! What holds of the codec whatever frames come in (see `crate::fuzz`): a batch or a violation, nothing of
//! an epoch after a violation, and what was taken can be sent on and comes out the same.

use hotspan_ingest::v1::{AgentFrame, agent_frame::Frame};
use prost::Message as _;

use super::{
    codes::MAX_STRING,
    decode::Decoder,
    decode_account::decode_gap,
    encode::Encoder,
    item::Repaired,
    made::{Input, Made},
    resolved::resolved,
    size,
    violation::Violation,
};
use crate::model::batch::Batch;

/// Frames behind their lengths of two bytes, as bytes of the wire.
pub(crate) fn bytes(mut data: &[u8]) {
    let mut stream = Stream::default();
    while let Some((&length, rest)) = data.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes(length)).min(rest.len());
        let (frame, rest) = rest.split_at(length);
        data = rest;
        if let Ok(frame) = AgentFrame::decode(frame) {
            stream.take(&frame);
        }
    }
}

/// Frames that are well formed, in an order and with indexes that need not be.
pub(crate) fn order(data: &[u8]) {
    let mut made = Made::new(Input::new(data));
    let mut stream = Stream::default();
    while let Some(frame) = made.next() {
        stream.take(&frame);
    }
}

/// A stream's decoder, and what is known of it from outside.
#[derive(Default)]
struct Stream {
    decoder: Decoder,
    /// Nothing more of the present epoch may be taken.
    lost: bool,
}

// === impl Stream ===

impl Stream {
    fn take(&mut self, frame: &AgentFrame) {
        match &frame.frame {
            Some(Frame::Batch(wire)) => {
                let have = self.decoder.epoch();
                let may = wire.epoch > have || (wire.epoch == have && have > 0 && !self.lost);
                let decoded = self.decoder.batch(wire);
                assert!(may || matches!(decoded, Err(Violation::Epoch { .. })), "{decoded:?}");
                assert_eq!(self.decoder.epoch(), have.max(wire.epoch));
                self.lost = decoded.is_err();
                match decoded {
                    Ok(batch) => check(&batch),
                    // A reason the agent gets.
                    Err(violation) => assert!(violation.to_string().len() < 256),
                }
            }
            Some(Frame::Gap(wire)) => assert!(decode_gap(wire).reason.len() <= MAX_STRING),
            // The session's.
            Some(Frame::Hello(_) | Frame::Bye(_)) | None => {}
        }
    }
}

/// That a batch stands on its own, and comes back as it is from another stream.
fn check(batch: &Batch) {
    assert_eq!(batch.contradiction(), None);
    let mut encoder = Encoder::new();
    let wire = encoder.batch(1, batch);
    assert_eq!(encoder.take_repaired(), Repaired::default());
    assert!(wire.encoded_len() <= size::batch_bytes(batch));
    let back = Decoder::default().batch(&wire);
    assert_eq!(back.map(|back| resolved(&back)), Ok(resolved(batch)));
}
