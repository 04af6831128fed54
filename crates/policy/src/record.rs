//! Decisions that can be made again: all that went in, and what came out.
//!
//! A record is stored with what it decided. [`Record::replay`] makes the decision again, from the
//! record alone, and says whether the same bytes come out; they do unless the code has changed.

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::balance::{BalanceSettings, Plan, balance};
use crate::cluster::{Cluster, ClusterSnapshot, ClusterVm, SnapshotError};
use crate::placement::{Choosing, Explained, Placed, explain_new, place_all};
use crate::whatif::{Question, simulate};

/// Of records that this code writes. It reads no other.
const FORMAT: u32 = 1;

/// What was decided about, with everything the decision depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    PlaceAll { snapshot: ClusterSnapshot, vms: Vec<ClusterVm>, seed: u64, window: usize },
    Balance { snapshot: ClusterSnapshot, settings: BalanceSettings },
    WhatIf(Question),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub format: u32,
    pub input: Input,
    /// The decision, or `{"error": …}` with the sentence of a refusal. As text: numbers that are
    /// read and written again can lose their last digit.
    pub output: Box<RawValue>,
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(
        "the record is of format {0}, and this version replays format {FORMAT}; use the version that wrote it"
    )]
    Format(u32),
    #[error("the record is not of VMs that were to be placed; look at what it holds")]
    NoPlacement,
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the decision cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// What replaying a record gave.
#[derive(Debug, Clone)]
pub struct Replay {
    pub same: bool,
    /// What comes out now.
    pub record: Record,
}

impl Record {
    /// Decides, and keeps what it was about.
    ///
    /// # Errors
    /// If the decision cannot be written, which would be a mistake of its types.
    pub fn decide(input: Input) -> Result<Self, RecordError> {
        let output = match &input {
            Input::PlaceAll { snapshot, vms, seed, window } => {
                let choosing = Choosing { seed: *seed, window: *window };
                let placed = Cluster::build(snapshot).map_err(|error| error.to_string()).and_then(
                    |mut cluster| {
                        let placed = place_all(&mut cluster, vms, choosing);
                        placed.map_err(|refusal| refusal.to_string())
                    },
                );
                told(placed)?
            }
            Input::Balance { snapshot, settings } => {
                let plan =
                    Cluster::build(snapshot).map(|mut cluster| balance(&mut cluster, settings));
                told(plan.map_err(|error| error.to_string()))?
            }
            Input::WhatIf(question) => told(simulate(question).map_err(|error| error.to_string()))?,
        };
        Ok(Self { format: FORMAT, input, output })
    }

    /// Of VMs that have been placed: what went in, and what came out.
    ///
    /// # Errors
    /// As [`Record::decide`].
    pub fn of_placed(
        snapshot: ClusterSnapshot,
        vms: Vec<ClusterVm>,
        choosing: Choosing,
        placed: &[Placed],
    ) -> Result<Self, RecordError> {
        let Choosing { seed, window } = choosing;
        let output = to_raw_value(placed)?;
        let input = Input::PlaceAll { snapshot, vms, seed, window };
        Ok(Self { format: FORMAT, input, output })
    }

    /// Of a cluster that has been balanced: what went in, and the plan that came out.
    ///
    /// # Errors
    /// As [`Record::decide`].
    pub fn of_balanced(
        snapshot: ClusterSnapshot,
        settings: BalanceSettings,
        plan: &Plan,
    ) -> Result<Self, RecordError> {
        let (input, output) = (Input::Balance { snapshot, settings }, to_raw_value(plan)?);
        Ok(Self { format: FORMAT, input, output })
    }

    /// What was seen when it was decided: of each VM, all filters and scores. Of a batch each is
    /// looked at as if it were alone.
    ///
    /// # Errors
    /// If it is a record of another format, or of something else than VMs that were to be placed.
    pub fn explain(&self) -> Result<Vec<Explained>, RecordError> {
        if self.format != FORMAT {
            return Err(RecordError::Format(self.format));
        }
        let Input::PlaceAll { snapshot, vms, seed, window } = &self.input else {
            return Err(RecordError::NoPlacement);
        };
        let choosing = Choosing { seed: *seed, window: *window };
        let mut cluster = Cluster::build(snapshot)?;
        vms.iter().map(|vm| Ok(explain_new(&mut cluster, vm, choosing)?)).collect()
    }

    /// The bytes that are stored.
    ///
    /// # Errors
    /// As [`Record::decide`].
    pub fn bytes(&self) -> Result<Vec<u8>, RecordError> {
        Ok(serde_json::to_vec(self)?)
    }

    /// Makes the decision again.
    ///
    /// # Errors
    /// If it is a record of another format.
    pub fn replay(&self) -> Result<Replay, RecordError> {
        if self.format != FORMAT {
            return Err(RecordError::Format(self.format));
        }
        let record = Self::decide(self.input.clone())?;
        Ok(Replay { same: record.bytes()? == self.bytes()?, record })
    }
}

fn told(decided: Result<impl Serialize, String>) -> Result<Box<RawValue>, serde_json::Error> {
    match decided {
        Ok(decided) => to_raw_value(&decided),
        Err(error) => to_raw_value(&serde_json::json!({ "error": error })),
    }
}
