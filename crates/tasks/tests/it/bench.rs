//! Figures of store and engine: `cargo nextest run -p hostler-tasks --run-ignored only bench`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hostler_store::Write;
use hostler_store::conformance::{batch, create, record};
use hostler_types::KindName;

use super::toy::{Bench, noting, registry, submit};

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
#[expect(clippy::print_stderr, reason = "its output is what it is run for")]
async fn bench_commits_and_tasks() {
    let bench = Bench::new(registry([noting("a"), noting("b"), noting("c")]));
    let mut times = Vec::new();
    let start = Instant::now();
    for number in 0..500 {
        let one = Instant::now();
        create(&*bench.store, record(KindName::Vm, &format!("one-{number}"), 1)).await;
        times.push(one.elapsed());
    }
    eprintln!("1 committer: {:.0} commits/s", 500.0 / start.elapsed().as_secs_f64());
    eprintln!("1 committer: median {:?}", median(times));

    let start = Instant::now();
    let committers: Vec<_> = (0..100)
        .map(|committer| {
            let store = Arc::clone(&bench.store);
            tokio::spawn(async move {
                for number in 0..50 {
                    let vm = record(KindName::Vm, &format!("many-{committer}-{number}"), 1);
                    store.commit(batch(1, [Write::Create(vm)])).await.unwrap();
                }
            })
        })
        .collect();
    for committer in committers {
        committer.await.unwrap();
    }
    eprintln!("100 committers: {:.0} commits/s", 5000.0 / start.elapsed().as_secs_f64());

    let mut times = Vec::new();
    for _ in 0..100 {
        let one = Instant::now();
        bench.run(submit()).await;
        times.push(one.elapsed());
    }
    eprintln!("task of 3 steps: median {:?}", median(times));

    let start = Instant::now();
    let loaded = bench.store.load_all().await.unwrap().records.len();
    eprintln!("load_all of {loaded} small objects: {:?}", start.elapsed());
}
