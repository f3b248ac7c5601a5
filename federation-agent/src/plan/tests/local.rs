//! Services whose clients keep to their node.

use super::*;

/// A federation whose first cluster runs its first endpoints, as many as `here`, on the node that plans are for, and
/// whose service keeps to it.
fn keeping_to_the_node(shards: [&[Readiness]; 3], here: usize) -> Federation {
    let mut federation = federation(shards);
    edit(&mut federation, |service| {
        service.distribution = TrafficDistribution::OnlySameNode;
        let near = service.shards.get_mut(NEAR).expect("a shard");
        let endpoints = std::mem::take(&mut near.endpoints);
        let node = |n| if n < here { "node-1" } else { "node-2" };
        near.endpoints = (0..)
            .zip(endpoints.iter().cloned())
            .map(|(n, e)| Endpoint { node: Some(node(n).into()), ..e })
            .collect();
    });
    federation
}

#[test]
fn a_service_that_keeps_to_the_node_goes_no_further() {
    for (near, here, expected) in [
        (&[Ready, Ready, Ready][..], 2, &[address(0, 1), address(0, 2)][..]),
        (&[Ready, NotReady, Ready], 2, &[address(0, 1)]),
        (&[NotReady, Ready], 1, &[]),
        (&[Ready], 0, &[]),
        (&[], 0, &[]),
        // Who terminates serves when the node has no other, whatever the rest of the shard has.
        (&[Serving, Ready], 1, &[address(0, 1)]),
        (&[Serving, Ready, Ready], 2, &[address(0, 2)]),
    ] {
        let all = keeping_to_the_node([near, &[Ready], &[Ready]], here);
        let target = target(&plan(&all, &place(), &Health::default()), &Scope::Nearest);
        assert_eq!(addresses(&target.backends), expected, "{near:?}, {here} here");
        assert_eq!(target.fallback, BTreeMap::new(), "{near:?}, {here} here");
    }
}

#[test]
fn an_endpoint_without_a_node_is_on_nobodys() {
    let mut all = keeping_to_the_node([&[Ready], &[], &[]], 1);
    edit(&mut all, |service| {
        let near = service.shards.get_mut(NEAR).expect("a shard");
        near.endpoints = [Endpoint { node: None, ..near.endpoints[0].clone() }].into();
    });
    let plan = plan(&all, &place(), &Health::default());
    assert_eq!(addresses(&target(&plan, &Scope::Nearest).backends), []);
    assert_eq!(addresses(&target(&plan, &Scope::Global).backends), [address(0, 1)]);
}

#[test]
fn weight_0_takes_no_node_its_only_endpoint() {
    let mut all = keeping_to_the_node([&[Ready], &[Ready], &[]], 1);
    edit(&mut all, |service| service.shards.get_mut(NEAR).expect("a shard").weight = 0);
    assert_eq!(percent(&plan(&all, &place(), &Health::default()), &Scope::Nearest), [100, 0, 0]);
}

#[test]
fn where_clients_keep_to_their_node_its_endpoints_answer_for_themselves() {
    let doubted = || Verdict::Doubted { evidence: "no answer".into() };
    let ejected = || Verdict::Ejected { rank: 1, evidence: "refused".into() };
    for (shard, own, serves, is_dead) in [
        (Some(failed()), None, true, false),
        (Some(failed()), Some(failed()), false, true),
        (None, Some(failed()), false, true),
        (Some(doubted()), Some(doubted()), true, false),
        // Nobody else is in the tier.
        (None, Some(ejected()), true, false),
    ] {
        let known = health(
            &shard.clone().map(|verdict| (0, verdict)).into_iter().collect::<Vec<_>>(),
            &own.clone().map(|verdict| (0, 1, verdict)).into_iter().collect::<Vec<_>>(),
        );
        let all = keeping_to_the_node([&[Ready, Ready], &[Ready], &[Ready]], 1);
        let plan = plan(&all, &place(), &known);
        let chosen = addresses(&target(&plan, &Scope::Nearest).backends);
        assert_eq!(chosen == [address(0, 1)], serves, "{shard:?}, {own:?}: {chosen:?}");
        assert_eq!(chosen.is_empty(), !serves, "{shard:?}, {own:?}: {chosen:?}");
        assert_eq!(dead(&plan).contains(&address(0, 1)), is_dead, "{shard:?}, {own:?}");
        assert_eq!(dead(&plan).contains(&address(0, 2)), shard == Some(failed()), "{shard:?}, {own:?}");
    }
}

#[test]
fn an_explanation_tells_who_is_not_on_the_node_that_a_service_keeps_to() {
    let all = keeping_to_the_node([&[NotReady, Ready, Ready], &[Ready], &[]], 2);
    let known = health(&[(1, failed())], &[]);
    let [nearest] = &explain(&all, &place(), &known, &service_key(), Some(vip(&Scope::Nearest)))[..] else {
        panic!("one frontend has this VIP")
    };
    let tiers: Vec<_> =
        nearest.tiers.iter().map(|t| (t.name.as_str(), t.usable, t.total, t.percent)).collect();
    assert_eq!(tiers, [("same node", 1, 2, 100.0)]);
    let off_node = "not on the client's node, and internalTrafficPolicy is Local";
    let lines: Vec<_> =
        nearest.endpoints.iter().map(|line| (line.address, line.percent, line.why.as_str())).collect();
    assert_eq!(
        lines,
        [
            (address(0, 1), 0.0, "not ready, by its cluster's word"),
            (address(0, 2), 100.0, "well"),
            (address(0, 3), 0.0, off_node),
            (address(1, 1), 0.0, off_node),
        ]
    );
    let [global] = &explain(&all, &place(), &known, &service_key(), Some(vip(&Scope::Global)))[..] else {
        panic!("one frontend has this VIP")
    };
    assert!(global.endpoints.iter().all(|line| line.why != off_node));
}

proptest! {
    #[test]
    fn only_nearest_keeps_to_the_node_and_never_leaves_it(near in shard(), next in shard(), far in shard(), here in 0_usize..6) {
        let keeping = keeping_to_the_node([&near, &next, &far], here);
        let mut leaving = keeping.clone();
        edit(&mut leaving, |service| service.distribution = TrafficDistribution::Any);
        let [keeping, leaving] = [keeping, leaving].map(|all| plan(&all, &place(), &Health::default()));
        for scope in [Scope::Global, Scope::Region("us-east1".into()), Scope::Zone(NEXT.into())] {
            prop_assert_eq!(target(&keeping, &scope), target(&leaving, &scope));
        }
        let nearest = target(&keeping, &Scope::Nearest);
        let usable = near.iter().take(here).any(|readiness| *readiness != NotReady);
        prop_assert_eq!(!nearest.backends.is_empty(), usable);
        prop_assert!(nearest.backends.keys().chain(nearest.full.keys()).all(|backend| backend.local));
        prop_assert!(nearest.fallback.is_empty());
    }
}
