//! A Redis stream, as a member of a consumer group.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use redis::{ErrorKind, FromRedisValue, RedisError, cmd};

use super::POLL;
use crate::Error;
use crate::event::Event;
use crate::redis_server::{RedisConnection, RedisServer};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit of a command: a hung Redis counts as an outage. Longer than a read waits for entries.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Entries read at once: other members cannot handle them meanwhile.
const BATCH: usize = 50;
/// Time after which another member takes entries over, and how often members look for such entries.
const ABANDONED: Duration = Duration::from_secs(30);
const CLAIM_INTERVAL: Duration = Duration::from_secs(5);

/// Counts the entries that were trimmed before the group read them: all ever added, less those in the stream and
/// those read. Marks them as read, so that each is reported once. Creates the group and returns -1 if it does not
/// exist.
/// KEYS: the stream. ARGV: the group.
const LOSSES: &str = r"
local function named(list)
    local fields = {}
    for i = 1, #list, 2 do fields[list[i]] = list[i + 1] end
    return fields
end
local gone = 0
if redis.call('EXISTS', KEYS[1]) == 1 then
    local stream = named(redis.call('XINFO', 'STREAM', KEYS[1]))
    gone = stream['entries-added'] - stream['length']
    for _, list in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        local group = named(list)
        if group['name'] == ARGV[1] then
            local read = group['entries-read']
            -- After XDEL, Redis cannot tell.
            if not read or gone <= read then return 0 end
            redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], group['last-delivered-id'], 'ENTRIESREAD', gone)
            return gone - read
        end
    end
end
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM', 'ENTRIESREAD', gone)
return -1
";

pub struct Group {
    redis: RedisServer,
    stream: String,
    group: String,
    member: String,
    connection: Option<RedisConnection>,
    /// While unfinished entries of this member are read again: the last of them.
    own_after: Option<String>,
    /// The entry from which to look for entries of inactive members.
    claim_from: String,
    claimed_at: Instant,
    in_hand: VecDeque<String>,
    unacknowledged: Vec<String>,
}

/// An entry; only its id if the stream was trimmed.
type Entry = (String, Option<Vec<Vec<u8>>>);

impl Group {
    pub fn new(redis: RedisServer, stream: &str, group: &str, member: &str) -> Group {
        Group {
            redis,
            stream: stream.to_owned(),
            group: group.to_owned(),
            member: member.to_owned(),
            connection: None,
            own_after: None,
            claim_from: "0-0".to_owned(),
            claimed_at: Instant::now(),
            in_hand: VecDeque::new(),
            unacknowledged: Vec::new(),
        }
    }

    pub fn describe(&self) -> String {
        let Group { redis, stream, group, member, .. } = self;
        format!("stream \"{stream}\" of Redis at {redis} as \"{member}\" of group \"{group}\"")
    }

    pub async fn next(&mut self) -> Result<Vec<Event>, Error> {
        self.acknowledge().await?;
        if self.connection.is_none() {
            self.connect().await?;
        }
        if let Some(after) = self.own_after.clone() {
            let entries = self.read(&after, None).await?;
            self.own_after = entries.last().map(|(id, _)| id.clone());
            if self.own_after.is_some() {
                return Ok(self.take(entries));
            }
        }
        if self.claimed_at.elapsed() >= CLAIM_INTERVAL {
            self.claimed_at = Instant::now();
            self.look_for_losses().await?;
            let entries = self.claim().await?;
            if !entries.is_empty() {
                return Ok(self.take(entries));
            }
        }
        let entries = self.read(">", Some(POLL)).await?;
        Ok(self.take(entries))
    }

    pub fn handled(&mut self) {
        self.unacknowledged.extend(self.in_hand.pop_front());
    }

    /// Acknowledges handled entries, and resets the idle time of the others.
    pub async fn acknowledge(&mut self) -> Result<(), Error> {
        if !self.unacknowledged.is_empty() {
            let mut acknowledge = cmd("XACK");
            acknowledge.arg(&self.stream).arg(&self.group).arg(&self.unacknowledged);
            self.ask::<()>(&acknowledge).await?;
            self.unacknowledged.clear();
        }
        if !self.in_hand.is_empty() {
            let mut keep = cmd("XCLAIM");
            keep.arg(&self.stream).arg(&self.group).arg(&self.member).arg(0);
            for id in &self.in_hand {
                keep.arg(id);
            }
            self.ask::<()>(keep.arg("JUSTID")).await?;
        }
        Ok(())
    }

    pub fn disconnect(&mut self) {
        self.connection = None;
        self.in_hand.clear();
        self.unacknowledged.clear();
    }

    async fn connect(&mut self) -> Result<(), Error> {
        self.connection = Some(self.redis.connect(CONNECT_TIMEOUT, TIMEOUT).await?);
        self.look_for_losses().await?;
        self.own_after = Some("0-0".to_owned());
        self.claim_from = "0-0".to_owned();
        Ok(())
    }

    async fn read(&mut self, after: &str, wait: Option<Duration>) -> Result<Vec<Entry>, Error> {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(&self.group).arg(&self.member).arg("COUNT").arg(BATCH);
        if let Some(wait) = wait {
            read.arg("BLOCK").arg(wait.as_millis() as u64);
        }
        read.arg("STREAMS").arg(&self.stream).arg(after);
        let streams: Option<Vec<(String, Vec<Entry>)>> = self.ask(&read).await?;
        Ok(streams.unwrap_or_default().into_iter().flat_map(|(_, entries)| entries).collect())
    }

    /// Takes over entries of inactive members.
    async fn claim(&mut self) -> Result<Vec<Entry>, Error> {
        let mut claim = cmd("XAUTOCLAIM");
        claim.arg(&self.stream).arg(&self.group).arg(&self.member).arg(ABANDONED.as_millis() as u64);
        claim.arg(&self.claim_from).arg("COUNT").arg(BATCH);
        let (next, entries, gone): (String, Vec<Entry>, Vec<String>) = self.ask(&claim).await?;
        self.claim_from = next;
        if !gone.is_empty() {
            self.log_lost(gone.len());
        }
        if !entries.is_empty() {
            tracing::info!("taking over {} entries of an inactive member", entries.len());
        }
        Ok(entries)
    }

    /// Returns the events of entries. Entries without an event are acknowledged.
    fn take(&mut self, entries: Vec<Entry>) -> Vec<Event> {
        let (mut events, mut gone) = (Vec::with_capacity(entries.len()), 0);
        for (id, fields) in entries {
            match fields.as_deref().map(event) {
                Some(Ok(event)) => {
                    self.in_hand.push_back(id);
                    events.push(event);
                    continue;
                }
                Some(Err(error)) => {
                    tracing::warn!("entry {id} of stream \"{}\" is not an event: {error}; ignoring it", self.stream)
                }
                None => gone += 1,
            }
            self.unacknowledged.push(id);
        }
        if gone > 0 {
            self.log_lost(gone);
        }
        events
    }

    fn log_lost(&self, count: usize) {
        tracing::warn!("stream \"{}\" was trimmed: {count} pending events lost; keep a longer stream", self.stream);
    }

    /// Creates the group if it does not exist; otherwise logs the entries that it lost.
    async fn look_for_losses(&mut self) -> Result<(), Error> {
        let lost: i64 = self.ask(cmd("EVAL").arg(LOSSES).arg(1).arg(&self.stream).arg(&self.group)).await?;
        let Group { stream, group, .. } = &self;
        match lost {
            ..0 => {
                tracing::info!("created group \"{group}\", which begins with the oldest entry of stream \"{stream}\"")
            }
            0 => (),
            _ => tracing::warn!(
                "stream \"{stream}\" was trimmed: group \"{group}\" lost {lost} events, which are in state_history. \
                 Keep a longer stream, or read the feed."
            ),
        }
        Ok(())
    }

    async fn ask<T: FromRedisValue>(&mut self, command: &redis::Cmd) -> Result<T, Error> {
        match &mut self.connection {
            Some(connection) => Ok(command.query_async(connection).await?),
            None => Err(RedisError::from((ErrorKind::Io, "not connected")).into()),
        }
    }
}

fn event(fields: &[Vec<u8>]) -> Result<Event, serde_json::Error> {
    let named = fields.chunks_exact(2).find(|field| field[0] == b"event");
    serde_json::from_slice(named.map_or(&[], |field| &field[1]))
}
