//! The checker: visits every state of a model, breadth first, so that what it finds is a shortest way there.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A model with more states is not for a test of seconds.
const LIMIT: usize = 500_000;

pub trait Model: Sized {
    type State: Clone + Eq + Hash;
    type Action: Copy + Debug;

    fn first_state(&self) -> Self::State;
    /// All that can happen in a state.
    fn actions(&self, state: &Self::State, actions: &mut Vec<Self::Action>);
    /// None if nothing changes.
    fn next_state(&self, last: &Self::State, action: Self::Action) -> Option<Self::State>;
    fn properties(&self) -> Vec<Property<Self>>;
}

pub struct Property<M: Model> {
    name: &'static str,
    /// Whether a state is looked for that has the property, not one that lacks it.
    is_goal: bool,
    holds: fn(&M, &M::State) -> bool,
}

impl<M: Model> Property<M> {
    /// Holds in every state.
    pub fn always(name: &'static str, holds: fn(&M, &M::State) -> bool) -> Property<M> {
        Property { name, is_goal: false, holds }
    }

    /// Holds in a state, or the other properties would say little.
    pub fn sometimes(name: &'static str, holds: fn(&M, &M::State) -> bool) -> Property<M> {
        Property { name, is_goal: true, holds }
    }
}

/// Tells states apart, in less memory than the states. At these numbers of states no two have the same.
type Fingerprint = [u64; 2];

fn fingerprint(state: &impl Hash) -> Fingerprint {
    [0_u8, 1].map(|salt| {
        let mut hasher = DefaultHasher::new();
        (salt, state).hash(&mut hasher);
        hasher.finish()
    })
}

struct Search<M: Model> {
    /// Each visited state, with the action that led there first.
    visited: HashMap<Fingerprint, Option<(Fingerprint, M::Action)>>,
    /// Goals, and states that lack a property.
    found: BTreeMap<&'static str, Fingerprint>,
    steps: usize,
}

impl<M: Model> Search<M> {
    /// Visits every state, or ends when it has found what is looked for.
    fn run(model: &M, is_enough: impl Fn(&Property<M>) -> bool) -> Search<M> {
        let (properties, first) = (model.properties(), model.first_state());
        let visited = HashMap::from([(fingerprint(&first), None)]);
        let mut search = Search { visited, found: BTreeMap::new(), steps: 0 };
        let (mut layer, mut actions) = (vec![first], Vec::new());
        while !layer.is_empty() {
            let mut next_layer = Vec::new();
            for state in &layer {
                let place = fingerprint(state);
                for property in &properties {
                    if (property.holds)(model, state) == property.is_goal {
                        search.found.entry(property.name).or_insert(place);
                        if is_enough(property) {
                            return search;
                        }
                    }
                }
                model.actions(state, &mut actions);
                for action in actions.drain(..) {
                    let Some(next) = model.next_state(state, action) else { continue };
                    if let Entry::Vacant(entry) = search.visited.entry(fingerprint(&next)) {
                        entry.insert(Some((place, action)));
                        next_layer.push(next);
                    }
                }
            }
            assert!(search.visited.len() < LIMIT, "too many states for a test");
            search.steps += usize::from(!next_layer.is_empty());
            layer = next_layer;
        }
        search
    }

    fn path_to(&self, name: &str) -> Vec<M::Action> {
        let (mut path, mut place) = (Vec::new(), self.found[name]);
        while let Some((earlier, action)) = self.visited[&place] {
            path.push(action);
            place = earlier;
        }
        path.reverse();
        path
    }
}

/// Every property holds, and every goal can be reached.
pub fn assert_holds<M: Model>(model: M) {
    let search = Search::run(&model, |property| !property.is_goal);
    for property in model.properties() {
        let name = property.name;
        match search.found.contains_key(name) {
            true if !property.is_goal => panic!("not so: {name}, after {:#?}", search.path_to(name)),
            false if property.is_goal => panic!("never so: {name}"),
            _ => {}
        }
    }
    println!("{} states, at most {} steps", search.visited.len(), search.steps);
}

/// This property does not hold. Prints the steps that show it.
pub fn assert_fails<M: Model>(model: M, name: &'static str) {
    let search = Search::run(&model, |property| property.name == name);
    assert!(search.found.contains_key(name), "{name}: holds in {} states", search.visited.len());
    let path = search.path_to(name);
    println!("not so: {name}, after {} steps: {path:#?}", path.len());
}

/// Whether every property holds.
pub fn holds<M: Model>(model: M) -> bool {
    let search = Search::run(&model, |property| !property.is_goal);
    model.properties().iter().all(|property| property.is_goal || !search.found.contains_key(property.name))
}
