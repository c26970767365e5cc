use super::*;
use std::sync::atomic::AtomicU32;

#[test]
fn every_unit_runs_exactly_once_over_thousands_of_small_runs() {
    for threads in 1..=4 {
        let pool = Pool::new(threads).unwrap();
        assert_eq!(pool.threads(), threads);
        let counts: Vec<AtomicU32> = (0..37).map(|_| AtomicU32::new(0)).collect();
        let mut expected = vec![0; counts.len()];
        let mut step = None;
        for round in 0..4000 {
            if round % 500 == 0 {
                step = (round % 1000 == 0).then(|| pool.begin_step());
            }
            let units = round % (counts.len() + 1);
            pool.run(units, &|i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            expected[..units].iter_mut().for_each(|n| *n += 1);
            // Read without synchronisation of our own: the join must make every unit's effect visible.
            assert!(counts.iter().zip(&expected).all(|(a, b)| a.load(Ordering::Relaxed) == *b), "round {round}");
        }
        drop(step);
    }
}

#[test]
fn workers_take_part() {
    let pool = Pool::new(2).unwrap();
    let caller = std::thread::current().id();
    // Both units wait for each other, so this only ends if two threads run them.
    let arrived = std::sync::Barrier::new(2);
    let on_caller = AtomicU32::new(0);
    pool.run(2, &|_| {
        arrived.wait();
        on_caller.fetch_add(u32::from(std::thread::current().id() == caller), Ordering::Relaxed);
    });
    assert_eq!(on_caller.load(Ordering::Relaxed), 1);
}

#[test]
fn a_panicking_unit_reaches_the_caller_and_the_pool_stays_usable() {
    for threads in 1..=4 {
        let pool = Pool::new(threads).unwrap();
        for bad in [0, 3, 99] {
            let ran = AtomicU32::new(0);
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(100, &|i| {
                    assert!(i != bad, "unit {i} is bad");
                    ran.fetch_add(1, Ordering::Relaxed);
                });
            }));
            let panic = caught.unwrap_err();
            assert_eq!(panic.downcast_ref::<String>().unwrap(), &format!("unit {bad} is bad"));
            assert!(ran.load(Ordering::Relaxed) < 100);
            ran.store(0, Ordering::Relaxed);
            pool.run(100, &|_| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(ran.load(Ordering::Relaxed), 100);
        }
    }
}

#[test]
fn a_nested_run_is_refused() {
    for threads in 1..=3 {
        let pool = Pool::new(threads).unwrap();
        let caught = catch_unwind(AssertUnwindSafe(|| pool.run(4, &|_| pool.run(1, &|_| ()))));
        let panic = caught.unwrap_err();
        assert!(panic.downcast_ref::<&str>().unwrap().contains("during a run of the same pool"));
        pool.run(4, &|_| ());
    }
}

#[test]
fn a_worker_that_parked_is_woken() {
    let pool = Pool::new(3).unwrap();
    for _ in 0..50 {
        while !pool.shared.parked.iter().all(|p| p.0.load(Ordering::SeqCst)) {
            std::thread::yield_now();
        }
        let all = std::sync::Barrier::new(3);
        pool.run(3, &|_| {
            all.wait();
        });
    }
}

#[test]
fn the_number_of_threads_is_checked() {
    for threads in [0, MAX_THREADS + 1] {
        let error = Pool::new(threads).map(|_| ()).unwrap_err().to_string();
        assert_eq!(error, format!("threads {threads}: must be 1 to 1024"));
    }
}

#[test]
fn more_threads_than_cores_still_finish() {
    let pool = Pool::new(16).unwrap();
    let _hot = pool.begin_step();
    let total = AtomicUsize::new(0);
    for _ in 0..2000 {
        pool.run(16, &|i| {
            total.fetch_add(i, Ordering::Relaxed);
        });
    }
    assert_eq!(total.into_inner(), 2000 * 120);
}

#[test]
fn a_run_ends_after_the_last_worker_even_when_its_caller_parked() {
    let pool = Pool::new(2).unwrap();
    let caller = std::thread::current().id();
    for round in 0..50 {
        let (both, finished) = (std::sync::Barrier::new(2), AtomicU32::new(0));
        let returned = AtomicBool::new(false);
        let unit = |_| {
            both.wait();
            // The worker stays until the caller has nothing left but to park.
            while std::thread::current().id() != caller
                && pool.shared.state.0.load(Ordering::SeqCst) & CALLER_WAITS == 0
                && !returned.load(Ordering::SeqCst)
            {
                std::thread::yield_now();
            }
            finished.fetch_add(1, Ordering::Relaxed);
        };
        pool.run(2, &unit);
        let ended = finished.load(Ordering::Relaxed);
        returned.store(true, Ordering::SeqCst);
        assert_eq!(ended, 2, "round {round}: the caller went on without the worker");
    }
}

#[test]
fn units_that_had_not_started_when_one_panicked_are_skipped() {
    let pool = Pool::new(2).unwrap();
    let both = std::sync::Barrier::new(2);
    let late = AtomicU32::new(0);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        pool.run(100, &|i| match i {
            0 => {
                both.wait();
                panic!("unit 0 is bad");
            }
            1 => {
                both.wait();
                while lock(&pool.shared.panic).is_none() {
                    std::thread::yield_now();
                }
            }
            _ => {
                late.fetch_add(1, Ordering::Relaxed);
            }
        });
    }));
    assert!(caught.is_err());
    assert_eq!(late.load(Ordering::Relaxed), 0);
}

#[test]
fn workers_that_claim_at_the_same_time_get_different_units() {
    let pool = Pool::new(2).unwrap();
    let counts: Vec<AtomicU32> = (0..400_000).map(|_| AtomicU32::new(0)).collect();
    pool.run(counts.len(), &|i| {
        counts[i].fetch_add(1, Ordering::Relaxed);
    });
    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
}

#[test]
fn a_run_that_was_closed_cannot_be_entered() {
    // One thread: nobody enters but this test.
    let pool = Pool::new(1).unwrap();
    let shared = &*pool.shared;
    shared.publish(&|_| (), 1);
    let open = shared.state.0.load(Ordering::SeqCst);
    shared.join();
    assert!(!shared.enter(open), "closed");
    shared.publish(&|_| (), 1);
    assert!(!shared.enter(open), "closed, and another opened");
    shared.join();
    assert_eq!(shared.state.0.load(Ordering::SeqCst) & INSIDE, 0);
}
