//! Random batches against a model that is simple enough to be seen to be right.

use std::collections::BTreeMap;

use hostler_types::{Id, KindName, ObjectId, Revision, TaskId};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;
use uuid::Uuid;

use super::{Place, at, batch, record, refusal};
use crate::batch::Write;
use crate::record::{Json, Record};
use crate::store::{Scope, Snapshot, Store};

const KINDS: [KindName; 2] = [KindName::Vm, KindName::Task];

/// A write over few ids, names and tasks, so that they meet.
#[derive(Debug, Clone)]
enum Step {
    Create { kind: usize, id: u128, name: u8, size: u64 },
    Update { kind: usize, id: u128, name: u8, size: u64, stale: bool },
    UpdateAny { kind: usize, id: u128, name: u8, size: u64 },
    Delete { kind: usize, id: u128, stale: Option<bool> },
    Lock { object: u128, task: u128 },
    Unlock { task: u128 },
    ExpectUnlocked { object: u128 },
}

fn step() -> impl Strategy<Value = Step> {
    let object = || (0..KINDS.len(), 0..4_u128, 0..4_u8, 0..3_u64);
    prop_oneof![
        4 => object().prop_map(|(kind, id, name, size)| Step::Create { kind, id, name, size }),
        2 => (object(), prop::bool::weighted(0.2)).prop_map(|((kind, id, name, size), stale)| {
            Step::Update { kind, id, name, size, stale }
        }),
        2 => object().prop_map(|(kind, id, name, size)| Step::UpdateAny { kind, id, name, size }),
        2 => (0..KINDS.len(), 0..4_u128, prop::option::of(prop::bool::weighted(0.2)))
            .prop_map(|(kind, id, stale)| Step::Delete { kind, id, stale }),
        1 => (0..3_u128, 0..2_u128).prop_map(|(object, task)| Step::Lock { object, task }),
        1 => (0..2_u128).prop_map(|task| Step::Unlock { task }),
        1 => (0..3_u128).prop_map(|object| Step::ExpectUnlocked { object }),
    ]
}

#[derive(Debug, Clone, Default)]
struct Model {
    objects: BTreeMap<(KindName, ObjectId), Record>,
    locks: BTreeMap<ObjectId, TaskId>,
    revision: u64,
}

impl Model {
    /// Carries out the batch or says why not, as [`refusal`] does.
    fn commit(&mut self, seconds: i64, writes: &[Write]) -> &'static str {
        let mut next = self.clone();
        for write in writes {
            if let Err(refusal) = next.write(seconds, write) {
                return refusal;
            }
        }
        *self = next;
        "done"
    }

    fn write(&mut self, seconds: i64, write: &Write) -> Result<(), &'static str> {
        match write {
            Write::Create(record) if self.objects.contains_key(&(record.kind, record.id)) => {
                Err("exists")
            }
            Write::Create(record) => {
                let times = Record { created_at: at(seconds), generation: 1, ..record.clone() };
                self.put(seconds, times)
            }
            Write::Update { record, expected } => {
                let old = self.expect(record.kind, record.id, Some(*expected))?;
                self.update(seconds, &old, record)
            }
            Write::UpdateAny(record) => {
                let old = self.expect(record.kind, record.id, None)?;
                self.update(seconds, &old, record)
            }
            Write::Delete { kind, id, expected } => {
                self.expect(*kind, *id, *expected)?;
                self.objects.remove(&(*kind, *id));
                self.revision += 1;
                Ok(())
            }
            Write::Lock { object, task } => match self.locks.insert(*object, *task) {
                Some(by) if by != *task => Err("locked"),
                _ => Ok(()),
            },
            Write::Unlock { task } => {
                self.locks.retain(|_, by| by != task);
                Ok(())
            }
            Write::Expect { kind, id, revision } => self.expect(*kind, *id, *revision).map(|_| ()),
            Write::ExpectUnlocked { object } if self.locks.contains_key(object) => Err("locked"),
            Write::ExpectUnlocked { .. } | Write::Decide(_) | Write::KeepDrsRun(_) => Ok(()),
        }
    }

    fn update(&mut self, seconds: i64, old: &Record, new: &Record) -> Result<(), &'static str> {
        let same = old.name == new.name && old.spec == new.spec && old.labels == new.labels;
        let generation = old.generation + u64::from(!same);
        self.put(seconds, Record { created_at: old.created_at, generation, ..new.clone() })
    }

    fn put(&mut self, seconds: i64, record: Record) -> Result<(), &'static str> {
        let taken = |other: &Record| other.name == record.name && other.id != record.id;
        if self.objects.values().any(|other| other.kind == record.kind && taken(other)) {
            return Err("name taken");
        }
        self.revision += 1;
        let revision = Revision(self.revision);
        let record = Record { revision, updated_at: at(seconds), ..record };
        self.objects.insert((record.kind, record.id), record);
        Ok(())
    }

    fn expect(
        &self,
        kind: KindName,
        id: ObjectId,
        expected: Option<Revision>,
    ) -> Result<Record, &'static str> {
        let stored = self.objects.get(&(kind, id)).ok_or("not found")?;
        match expected {
            Some(expected) if expected != stored.revision => Err("stale"),
            _ => Ok(stored.clone()),
        }
    }

    fn snapshot(&self) -> Snapshot {
        let mut records: Vec<Record> = self.objects.values().cloned().collect();
        records.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        Snapshot { revision: Revision(self.revision), records }
    }

    /// The write that a step stands for, given what is stored.
    fn write_of(&self, step: &Step) -> Write {
        let id = |number: u128| Id::from_uuid(Uuid::from_u128(number + 1));
        let task = |number: u128| TaskId::from_uuid(Uuid::from_u128(number + 1));
        let make = |kind: usize, number: u128, name: u8, size: u64| Record {
            id: id(number),
            spec: Json::from(json!({ "size": size })),
            ..record(KINDS[kind], &format!("name-{name}"), size)
        };
        let revision = |kind: usize, number: u128, stale: bool| {
            let stored = self.objects.get(&(KINDS[kind], id(number)));
            Revision(stored.map_or(0, |record| record.revision.0) + u64::from(stale))
        };
        match *step {
            Step::Create { kind, id, name, size } => Write::Create(make(kind, id, name, size)),
            Step::Update { kind, id, name, size, stale } => {
                let expected = revision(kind, id, stale);
                Write::Update { record: make(kind, id, name, size), expected }
            }
            Step::UpdateAny { kind, id, name, size } => {
                Write::UpdateAny(make(kind, id, name, size))
            }
            Step::Delete { kind, id: number, stale } => {
                let expected = stale.map(|stale| revision(kind, number, stale));
                Write::Delete { kind: KINDS[kind], id: id(number), expected }
            }
            Step::Lock { object, task: by } => Write::Lock { object: id(object), task: task(by) },
            Step::Unlock { task: by } => Write::Unlock { task: task(by) },
            Step::ExpectUnlocked { object } => Write::ExpectUnlocked { object: id(object) },
        }
    }
}

/// Runs random batches on stores of fresh places and compares answers, contents, locks and the
/// past with the model's.
///
/// # Panics
/// With the smallest sequence of batches that makes a difference.
pub fn agrees_with_the_model(fresh: impl Fn() -> Box<dyn Place>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let batches = prop::collection::vec(prop::collection::vec(step(), 1..5), 1..16);
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&batches, |batches| {
        let place = fresh();
        runtime.block_on(async {
            let store = place.open().await;
            compare(&*store, &batches).await;
        });
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

async fn compare(store: &dyn Store, batches: &[Vec<Step>]) {
    let mut model = Model::default();
    let mut past = Vec::new();
    for (seconds, steps) in (1..).zip(batches) {
        let writes: Vec<Write> = steps.iter().map(|step| model.write_of(step)).collect();
        let expected = model.commit(seconds, &writes);
        let answer = store.commit(batch(seconds, writes)).await;
        assert_eq!(refusal(&answer), expected);
        assert_eq!(store.load_all().await.expect("read"), model.snapshot());
        past.push((seconds, model.snapshot()));
    }
    for (seconds, snapshot) in past {
        assert_eq!(store.as_of(Scope::All, at(seconds)).await.expect("read"), snapshot);
    }
    let locks: BTreeMap<ObjectId, TaskId> = (store.locks().await.expect("read").into_iter())
        .map(|lock| (lock.object, lock.task))
        .collect();
    assert_eq!(locks, model.locks);
    let log = store.changes_after(Revision(0), usize::MAX).await.expect("read");
    assert!(log.iter().map(|change| change.revision.0).eq(1..=model.revision));
}
