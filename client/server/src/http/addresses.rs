//! Limits for each address, so that one client cannot use up the limits of all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;

/// A client as the limits count it.
///
/// An IPv6 client has a whole network of 64 bits, so that is one address here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address(IpAddr);

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Address {
        Address(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            address => address,
        })
    }
}

/// Slots, of which each address gets a limited number.
pub struct Slots {
    max: usize,
    max_per_address: usize,
    used: Mutex<HashMap<Address, usize>>,
}

/// A slot, freed when it is dropped.
pub struct Slot {
    slots: Arc<Slots>,
    address: Address,
}

impl Slots {
    pub fn new(max: usize, max_per_address: usize) -> Arc<Slots> {
        Arc::new(Slots { max, max_per_address, used: Mutex::default() })
    }

    /// Acquires a slot; `None` if all are in use, or all of this address.
    pub fn acquire(self: &Arc<Self>, address: Address) -> Option<Slot> {
        let mut used = self.used();
        if used.values().sum::<usize>() >= self.max {
            return None;
        }
        let of_address = used.entry(address).or_default();
        if *of_address >= self.max_per_address {
            return None;
        }
        *of_address += 1;
        Some(Slot { slots: self.clone(), address })
    }

    /// Returns how many are in use.
    pub fn count(&self) -> usize {
        self.used().values().sum()
    }

    fn used(&self) -> MutexGuard<'_, HashMap<Address, usize>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut used = self.slots.used();
        if let Some(of_address) = used.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                used.remove(&self.address);
            }
        }
    }
}

/// Permits that requests wait for, of which each address gets the same part as of the connections.
#[derive(Clone)]
pub struct Shares {
    all: Arc<Semaphore>,
    max_per_address: usize,
    addresses: Arc<Mutex<HashMap<Address, Weak<Semaphore>>>>,
}

/// A permit of its address, and one of all.
pub type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Shares {
    pub fn new(max: usize, limits: &Limits) -> Shares {
        let max_per_address = (max * limits.clients_per_address).div_ceil(limits.clients.max(1)).clamp(1, max);
        Shares { all: Arc::new(Semaphore::new(max)), max_per_address, addresses: Arc::default() }
    }

    /// Waits for permits; `None` if others keep them for this time.
    pub async fn acquire(&self, address: Address, limit: Duration) -> Option<Permits> {
        let acquiring = async {
            let own = self.of(address).acquire_owned().await.ok()?;
            Some((own, self.all.clone().acquire_owned().await.ok()?))
        };
        tokio::time::timeout(limit, acquiring).await.ok().flatten()
    }

    fn of(&self, address: Address) -> Arc<Semaphore> {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = addresses.get(&address).and_then(Weak::upgrade) {
            return known;
        }
        addresses.retain(|_, other| other.strong_count() > 0);
        let new = Arc::new(Semaphore::new(self.max_per_address));
        addresses.insert(address, Arc::downgrade(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn network_of_ipv6_is_one_address() {
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:0:0:2"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
    }

    #[test]
    fn address_gets_its_share_of_slots() {
        let slots = Slots::new(3, 2);
        let (a, b) = (address("192.0.2.1"), address("192.0.2.2"));
        let held = [slots.acquire(a), slots.acquire(a)];
        assert!(held.iter().all(Option::is_some) && slots.acquire(a).is_none());
        let other = slots.acquire(b);
        assert!(other.is_some() && slots.acquire(b).is_none(), "all are in use");
        drop(held);
        assert!(slots.acquire(b).is_some() && slots.acquire(a).is_some());
    }
}
