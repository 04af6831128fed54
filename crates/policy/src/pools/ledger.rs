//! What is reserved in each pool, and whether more can be.
//!
//! A pool's *used* reservation is what its running VMs reserve and what its child pools cost it. A
//! pool costs its parent its own reservation, or what is used of it if that is more: the rest is
//! *borrowed*, which only an expandable pool may, and never beyond its limit. The root borrows from
//! nobody: its reservation is the cluster's capacity.
//!
//! ```text
//! used(pool) = Σ reservation of its VMs + Σ cost of its child pools
//! cost(pool) = max(reservation, used)
//! kept:        used ≤ reservation, unless expandable;   used ≤ limit, if there is one
//! ```
//!
//! So an admission walks from the VM's pool upward, and stops where the cost does not change: it
//! takes time by the depth, not by the number of VMs. What is admitted keeps the rules; they can be
//! broken only from outside, by [`Ledger::set_capacity`] when hosts are lost and by
//! [`Ledger::restore`], because what runs does run. From then on nothing more is admitted where it
//! is short; [`Ledger::overcommitted`] lists where.

use std::collections::HashMap;

use super::refusal::{Change, Obstacle, ObstacleKind, Refused, Shortage};
use super::{Hierarchy, Key, PerResource, Pool, Reserve, Resource};

/// The reservations of one cluster.
#[derive(Debug, Clone)]
pub struct Ledger<P, V> {
    accounts: HashMap<P, Account<P>>,
    admitted: HashMap<V, Promise<P>>,
    root: P,
}

#[derive(Debug, Clone)]
struct Account<P> {
    name: String,
    parent: Option<P>,
    /// Child pools.
    pools: usize,
    vms: usize,
    books: PerResource<Book>,
}

/// One resource of one pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Book {
    reservation: u64,
    expandable: bool,
    limit: Option<u64>,
    /// Wide enough that no number of VMs overflows it, so that a release always takes back exactly
    /// what was added.
    used: u128,
}

#[derive(Debug, Clone, Copy)]
struct Promise<P> {
    pool: P,
    amounts: PerResource<u64>,
}

/// A reservation that was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission<P> {
    /// From the VM's pool upward; empty if that had enough itself.
    pub borrowed: Vec<Borrowed<P>>,
}

/// What a pool had to ask of its parent for this reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Borrowed<P> {
    pub resource: Resource,
    pub pool: P,
    pub from: P,
    pub amount: u64,
}

/// How one resource of a pool stands, in MHz or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub reservation: u64,
    /// Reserved by its VMs and child pools.
    pub used: u64,
    /// Of `used`, what is not from its own reservation.
    pub borrowed: u64,
    /// The largest reservation that would be admitted here.
    pub available: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError<P> {
    #[error("{0}")]
    Refused(Refused<P>),
    #[error("there is no resource pool {0}")]
    UnknownPool(P),
    #[error("VM {vm} has its reservation in resource pool `{pool}` already")]
    AlreadyAdmitted { vm: String, pool: String },
    #[error("VM {0} has no reservation to change")]
    UnknownVm(String),
    #[error("resource pool `{pool}` exists already")]
    Exists { pool: String },
    #[error(
        "resource pool `{pool}` holds {pools} pools and {vms} running VMs; move them elsewhere first"
    )]
    NotEmpty { pool: String, pools: usize, vms: usize },
    #[error("resource pool `{pool}` is the root; it goes with its cluster")]
    Root { pool: String },
    #[error(
        "resource pool `{pool}` would reserve {reservation} of {resource}, more than its limit of \
         {limit}; raise the limit or lower the reservation"
    )]
    ReservationOverLimit { pool: String, resource: Resource, reservation: String, limit: String },
}

impl Book {
    fn new<P>(pool: &Pool<P>, resource: Resource) -> Self {
        let numbers = pool.numbers(resource);
        Self {
            reservation: numbers.reservation,
            // Of the root it would mean nothing: there is nobody to borrow from.
            expandable: numbers.expandable && pool.parent.is_some(),
            limit: numbers.limit,
            used: 0,
        }
    }

    fn cost(&self) -> u128 {
        self.used.max(self.reservation.into())
    }

    /// What it has of its own and has not given away.
    fn unreserved(&self) -> u64 {
        narrow(u128::from(self.reservation).saturating_sub(self.used))
    }
}

impl<P: Key, V: Key> Ledger<P, V> {
    /// A ledger of pools in which no VM runs yet. Pools that reserve more than their parent has are
    /// taken as they are, see [`Self::overcommitted`].
    pub fn new(hierarchy: &Hierarchy<P>) -> Self {
        let root = hierarchy.root().id;
        let mut ledger = Self { accounts: HashMap::new(), admitted: HashMap::new(), root };
        for pool in hierarchy.pools() {
            ledger.open(pool);
        }
        ledger
    }

    /// Reserves for a VM that is to be powered on.
    ///
    /// # Errors
    /// If a pool on the way to the root cannot give it; nothing is changed then.
    pub fn admit(
        &mut self,
        vm: V,
        pool: P,
        reserve: Reserve,
    ) -> Result<Admission<P>, LedgerError<P>> {
        if let Some(promise) = self.admitted.get(&vm) {
            let pool = self.name(promise.pool);
            return Err(LedgerError::AlreadyAdmitted { vm: vm.to_string(), pool });
        }
        let admission = self.check(pool, reserve)?;
        self.promise(vm, Promise { pool, amounts: reserve.amounts() });
        Ok(admission)
    }

    /// What [`Self::admit`] would answer, for a dry run.
    ///
    /// # Errors
    /// As `admit`.
    pub fn check(&self, pool: P, reserve: Reserve) -> Result<Admission<P>, LedgerError<P>> {
        self.account(pool)?;
        self.grant(pool, &reserve.amounts())
    }

    /// Records the reservation of a VM that runs already, whether there is room for it or not: at
    /// the server's start, or when a host comes back with it. Replaces what the VM reserved before.
    ///
    /// # Errors
    /// If there is no such pool.
    pub fn restore(&mut self, vm: V, pool: P, reserve: Reserve) -> Result<(), LedgerError<P>> {
        self.account(pool)?;
        self.release(vm);
        self.promise(vm, Promise { pool, amounts: reserve.amounts() });
        Ok(())
    }

    /// Gives back what a VM reserved. Whether it had reserved anything.
    pub fn release(&mut self, vm: V) -> bool {
        let Some(promise) = self.admitted.remove(&vm) else { return false };
        for resource in Resource::ALL {
            self.add(promise.pool, resource, -i128::from(promise.amounts[resource]));
        }
        if let Some(account) = self.accounts.get_mut(&promise.pool) {
            account.vms -= 1;
        }
        true
    }

    /// Changes the reservation of a running VM, or moves it to another pool, or both.
    ///
    /// # Errors
    /// If that cannot be granted with its present reservation given back; it is kept then.
    pub fn readmit(
        &mut self,
        vm: V,
        pool: P,
        reserve: Reserve,
    ) -> Result<Admission<P>, LedgerError<P>> {
        self.account(pool)?;
        let Some(before) = self.admitted.get(&vm).copied() else {
            return Err(LedgerError::UnknownVm(vm.to_string()));
        };
        self.release(vm);
        let granted = self.admit(vm, pool, reserve);
        if granted.is_err() {
            self.promise(vm, before);
        }
        granted
    }

    /// Adds a pool, and takes its reservation from its parent.
    ///
    /// # Errors
    /// If the parent does not exist or cannot give it.
    pub fn add_pool(&mut self, pool: &Pool<P>) -> Result<Admission<P>, LedgerError<P>> {
        if self.accounts.contains_key(&pool.id) {
            return Err(LedgerError::Exists { pool: self.name(pool.id) });
        }
        let Some(parent) = pool.parent else {
            return Err(LedgerError::Root { pool: pool.name.clone() });
        };
        self.account(parent)?;
        let books = PerResource::of(|resource| Book::new(pool, resource));
        within_limit(&pool.name, &books)?;
        let wanted = PerResource::of(|resource| books[resource].reservation);
        let admission = self.grant(parent, &wanted)?;
        self.open(pool);
        Ok(admission)
    }

    /// Removes an empty pool, and gives its reservation back to its parent.
    ///
    /// # Errors
    /// If something is in it, or it is the root.
    pub fn remove_pool(&mut self, pool: P) -> Result<(), LedgerError<P>> {
        let account = self.account(pool)?;
        let name = account.name.clone();
        let Some(parent) = account.parent else {
            return Err(LedgerError::Root { pool: name });
        };
        let (pools, vms) = (account.pools, account.vms);
        if pools + vms > 0 {
            return Err(LedgerError::NotEmpty { pool: name, pools, vms });
        }
        let books = account.books;
        self.accounts.remove(&pool);
        for resource in Resource::ALL {
            self.add(parent, resource, -signed(books[resource].cost()));
        }
        if let Some(account) = self.accounts.get_mut(&parent) {
            account.pools -= 1;
        }
        Ok(())
    }

    /// Changes a pool's reservation, limit or whether it is expandable; its parent stays, and its
    /// shares do not matter here.
    ///
    /// # Errors
    /// If its parent cannot give more, or its children have reserved more than is left to it;
    /// nothing is changed then. A resource that stays as it is is not looked at.
    pub fn reconfigure(&mut self, pool: &Pool<P>) -> Result<Admission<P>, LedgerError<P>> {
        let account = self.account(pool.id)?;
        let settled = Pool { parent: account.parent, ..pool.clone() };
        let books = PerResource::of(|resource| Book {
            used: account.books[resource].used,
            ..Book::new(&settled, resource)
        });
        within_limit(&account.name, &books)?;
        let mut borrowed = Vec::new();
        let mut shortages = Vec::new();
        for resource in Resource::ALL {
            match self.rebook(pool.id, account, resource, &books[resource]) {
                Ok(more) => borrowed.extend(more),
                Err(shortage) => shortages.push(shortage),
            }
        }
        if !shortages.is_empty() {
            return Err(LedgerError::Refused(Refused { shortages }));
        }
        self.rewrite(pool.id, &books);
        if let Some(account) = self.accounts.get_mut(&pool.id) {
            account.name.clone_from(&pool.name);
        }
        Ok(Admission { borrowed })
    }

    /// Sets what the cluster has, which nobody can refuse: hosts come and go.
    pub fn set_capacity(&mut self, capacity: Reserve) {
        let amounts = capacity.amounts();
        if let Some(account) = self.accounts.get_mut(&self.root) {
            for resource in Resource::ALL {
                account.books[resource].reservation = amounts[resource];
            }
        }
    }

    /// Where more is reserved than there is: after hosts were lost, or what runs was recorded.
    /// Empty as long as only [`Self::admit`] and its like were used. Takes time by the number of
    /// pools.
    pub fn overcommitted(&self) -> Vec<(Resource, Obstacle<P>)> {
        let mut found = Vec::new();
        for resource in Resource::ALL {
            for (id, account) in &self.accounts {
                let asked = account.books[resource].used;
                let none = Book { used: 0, ..account.books[resource] };
                let obstacles = obstacles(*id, account, &none, asked);
                found.extend(obstacles.into_iter().map(|obstacle| (resource, obstacle)));
            }
        }
        found.sort_unstable_by_key(|(resource, obstacle)| (*resource, obstacle.pool));
        found
    }

    /// How a pool stands; none if there is no such pool.
    pub fn usage(&self, pool: P, resource: Resource) -> Option<Usage> {
        let book = self.accounts.get(&pool)?.books[resource];
        Some(Usage {
            reservation: book.reservation,
            used: narrow(book.used),
            borrowed: narrow(book.used.saturating_sub(book.reservation.into())),
            available: self.available(pool, resource),
        })
    }

    /// Where a VM's reservation is, and how much of each resource in MHz and bytes.
    pub fn reservation(&self, vm: V) -> Option<(P, PerResource<u64>)> {
        self.admitted.get(&vm).map(|promise| (promise.pool, promise.amounts))
    }

    /// The largest reservation that would be admitted in a pool: its own unreserved part, with its
    /// parent's if it may borrow, but never past its limit.
    fn available(&self, pool: P, resource: Resource) -> u64 {
        let mut most = u64::MAX;
        let mut own: u64 = 0;
        let mut at = self.accounts.get(&pool);
        while let Some(account) = at {
            let book = account.books[resource];
            let below_limit = |limit| narrow(u128::from(limit).saturating_sub(book.used));
            // The limit counts what is asked of this pool: without what those below it still have.
            let to_limit = book.limit.map_or(u64::MAX, below_limit).saturating_add(own);
            most = most.min(to_limit);
            own = own.saturating_add(book.unreserved());
            at = account.parent.filter(|_| book.expandable).and_then(|id| self.accounts.get(&id));
        }
        most.min(own)
    }

    fn grant(&self, pool: P, amounts: &PerResource<u64>) -> Result<Admission<P>, LedgerError<P>> {
        let mut borrowed = Vec::new();
        let mut shortages = Vec::new();
        for resource in Resource::ALL {
            let (more, obstacles) = self.walk(pool, resource, amounts[resource].into());
            borrowed.extend(more);
            if !obstacles.is_empty() {
                let most = Some(self.available(pool, resource));
                shortages.push(Shortage { resource, obstacles, most });
            }
        }
        match shortages.is_empty() {
            true => Ok(Admission { borrowed }),
            false => Err(LedgerError::Refused(Refused { shortages })),
        }
    }

    /// Asks a pool for more, and those above it for what it does not have itself. Goes on past an
    /// obstacle as if it were removed, so that all of them are found.
    fn walk(
        &self,
        pool: P,
        resource: Resource,
        extra: u128,
    ) -> (Vec<Borrowed<P>>, Vec<Obstacle<P>>) {
        let (mut borrowed, mut in_the_way) = (Vec::new(), Vec::new());
        let mut asked = extra;
        let mut at = Some(pool);
        while let Some(pool) = at.filter(|_| asked > 0)
            && let Some(account) = self.accounts.get(&pool)
        {
            let book = account.books[resource];
            in_the_way.extend(obstacles(pool, account, &book, asked));
            let after = Book { used: book.used + asked, ..book };
            asked = after.cost() - book.cost();
            if let Some(from) = account.parent.filter(|_| asked > 0) {
                borrowed.push(Borrowed { resource, pool, from, amount: narrow(asked) });
            }
            at = account.parent;
        }
        (borrowed, in_the_way)
    }

    /// Whether a pool can have a new reservation, limit and expandability.
    fn rebook(
        &self,
        pool: P,
        account: &Account<P>,
        resource: Resource,
        book: &Book,
    ) -> Result<Vec<Borrowed<P>>, Shortage<P>> {
        // Hosts that were lost are no reason to refuse a change of the other resource.
        if *book == account.books[resource] {
            return Ok(Vec::new());
        }
        let before = account.books[resource].cost();
        let more = book.cost().saturating_sub(before);
        let emptied = Book { used: 0, ..*book };
        let mut in_the_way = obstacles(pool, account, &emptied, book.used);
        let too_little = !in_the_way.is_empty();
        let mut borrowed = Vec::new();
        if let Some(from) = account.parent.filter(|_| more > 0) {
            borrowed.push(Borrowed { resource, pool, from, amount: narrow(more) });
            let (further, above) = self.walk(from, resource, more);
            borrowed.extend(further);
            in_the_way.extend(above);
        }
        if in_the_way.is_empty() {
            return Ok(borrowed);
        }
        let parent = account.parent.map_or(0, |parent| self.available(parent, resource));
        let most = narrow(before).saturating_add(parent).min(book.limit.unwrap_or(u64::MAX));
        let most = (!too_little).then_some(most);
        Err(Shortage { resource, obstacles: in_the_way, most })
    }

    fn promise(&mut self, vm: V, promise: Promise<P>) {
        for resource in Resource::ALL {
            self.add(promise.pool, resource, promise.amounts[resource].into());
        }
        if let Some(account) = self.accounts.get_mut(&promise.pool) {
            account.vms += 1;
        }
        self.admitted.insert(vm, promise);
    }

    /// Adds to what is used of a pool, and of those above it as far as its cost changes.
    fn add(&mut self, pool: P, resource: Resource, more: i128) {
        let mut more = more;
        let mut at = Some(pool);
        while let Some(account) = at.filter(|_| more != 0).and_then(|id| self.accounts.get_mut(&id))
        {
            let book = &mut account.books[resource];
            let before = book.cost();
            book.used = (book.used.checked_add_signed(more))
                .expect("what is taken back was added before, and 2⁶⁴ amounts fit in 128 bits");
            more = signed(book.cost()) - signed(before);
            at = account.parent;
        }
    }

    /// Gives a pool other books, and its parent the difference.
    fn rewrite(&mut self, pool: P, books: &PerResource<Book>) {
        let Some(account) = self.accounts.get_mut(&pool) else { return };
        let before = account.books;
        account.books = *books;
        let Some(parent) = account.parent else { return };
        for resource in Resource::ALL {
            let more = signed(books[resource].cost()) - signed(before[resource].cost());
            self.add(parent, resource, more);
        }
    }

    fn open(&mut self, pool: &Pool<P>) {
        let books = PerResource::of(|resource| Book::new(pool, resource));
        let (name, parent) = (pool.name.clone(), pool.parent);
        self.accounts.insert(pool.id, Account { name, parent, pools: 0, vms: 0, books });
        if let Some(parent) = parent {
            for resource in Resource::ALL {
                self.add(parent, resource, signed(books[resource].cost()));
            }
            if let Some(account) = self.accounts.get_mut(&parent) {
                account.pools += 1;
            }
        }
    }

    fn account(&self, pool: P) -> Result<&Account<P>, LedgerError<P>> {
        self.accounts.get(&pool).ok_or(LedgerError::UnknownPool(pool))
    }

    fn name(&self, pool: P) -> String {
        self.accounts.get(&pool).map_or_else(String::new, |account| account.name.clone())
    }
}

/// What keeps a pool from giving `asked` beyond what is used of it.
fn obstacles<P: Key>(pool: P, account: &Account<P>, book: &Book, asked: u128) -> Vec<Obstacle<P>> {
    let used = book.used + asked;
    let mut found = Vec::new();
    let mut add = |kind, bound: u64, change: fn(u64, u64) -> Change| {
        if used > bound.into() {
            let free = narrow(u128::from(bound).saturating_sub(book.used));
            let change = change(narrow(used - u128::from(bound)), narrow(used));
            let name = account.name.clone();
            found.push(Obstacle { pool, name, kind, wanted: narrow(asked), free, change });
        }
    };
    if account.parent.is_none() {
        add(ObstacleKind::Capacity, book.reservation, |by, _| Change::AddCapacity { by });
    } else if !book.expandable {
        let raise = |by, to| Change::RaiseReservation { by, to };
        add(ObstacleKind::Fixed, book.reservation, raise);
    }
    if let Some(limit) = book.limit {
        add(ObstacleKind::Limit, limit, |by, to| Change::RaiseLimit { by, to });
    }
    found
}

fn within_limit<P>(pool: &str, books: &PerResource<Book>) -> Result<(), LedgerError<P>> {
    for resource in Resource::ALL {
        let book = books[resource];
        if let Some(limit) = book.limit.filter(|limit| book.reservation > *limit) {
            return Err(LedgerError::ReservationOverLimit {
                pool: pool.to_owned(),
                resource,
                reservation: resource.show(book.reservation),
                limit: resource.show(limit),
            });
        }
    }
    Ok(())
}

/// Sums beyond 2⁶⁴ are only of interest to this file's own arithmetic.
fn narrow(amount: u128) -> u64 {
    u64::try_from(amount).unwrap_or(u64::MAX)
}

/// Costs are sums of at most 2⁶⁴ amounts below 2⁶³, so they fit.
fn signed(amount: u128) -> i128 {
    i128::try_from(amount).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests;
