//! The change log, read and followed.

use hostler_api::event::{Change, ChangeAction, List, Watch};
use hostler_api::vm::History;
use hostler_control::services::event::{self, Event, EventFilter, EventQuery, Events, Verb};
use hostler_control::services::{vm, watch};
use hostler_endpoint::{Call, EventStream, Item, Page, Problem, Routes};
use hostler_types::{Ref, Revision};

use crate::app::{App, actor};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes.serve::<List, _>(list).serve::<History, _>(history).serve::<Watch, _>(follow)
}

async fn list(app: App, call: Call<List>) -> Result<Page<Change>, Problem> {
    let query = call.query;
    let mut filter =
        EventFilter { kinds: query.kind.into_iter().collect(), ..EventFilter::default() };
    match query.object {
        Some(Ref::Id(id)) => filter.id = Some(hostler_types::ObjectId::from_uuid(id)),
        Some(Ref::Name(name)) => filter.name = Some(name),
        None => {}
    }
    let full = query.full;
    let query = EventQuery { filter, after: revision(query.after)?, limit: query.limit };
    let actor = actor(&call.extensions)?;
    let events = event::list(&app.world, actor, &query).await.map_err(problem)?;
    Ok(page(events, full))
}

async fn history(app: App, call: Call<History>) -> Result<Page<Change>, Problem> {
    let actor = actor(&call.extensions)?;
    let vm = vm::show(&app.world, actor, &call.path.vm).map_err(problem)?;
    let filter = EventFilter { id: Some(vm.id().untyped()), ..EventFilter::default() };
    let after = revision(call.query.after)?;
    let query = EventQuery { filter, after, limit: call.query.limit };
    let events = event::list(&app.world, actor, &query).await.map_err(problem)?;
    Ok(page(events, true))
}

/// `Last-Event-ID`, which browsers send when they connect again, wins over the query.
async fn follow(app: App, call: Call<Watch>) -> Result<EventStream<Change>, Problem> {
    let after = call.last_event_id.or(call.query.after).map(Revision);
    let actor = actor(&call.extensions)?;
    let updates = watch::watch(&app.world, actor, after, call.query.kind).map_err(problem)?;
    Ok(app.events(updates, |event| Item { id: event.revision.0, data: change(event, true) }))
}

fn revision(after: Option<String>) -> Result<Option<Revision>, Problem> {
    let parse = |text: String| match text.parse() {
        Ok(revision) => Ok(Revision(revision)),
        Err(_) => Err(Problem::invalid(
            Some("after".to_owned()),
            "must be a revision: the `next` of a page, or an event's",
        )),
    };
    after.map(parse).transpose()
}

fn page(events: Events, full: bool) -> Page<Change> {
    Page {
        items: events.items.into_iter().map(|event| change(event, full)).collect(),
        next: events.next.map(|next| next.to_string()),
        revision: events.revision.0,
    }
}

fn change(event: Event, full: bool) -> Change {
    Change {
        revision: event.revision.0,
        at: event.at,
        kind: event.kind,
        id: event.id,
        name: event.name,
        action: match event.verb {
            Verb::Created => ChangeAction::Created,
            Verb::Changed => ChangeAction::Changed,
            Verb::Deleted => ChangeAction::Deleted,
        },
        actor: event.actor,
        reason: event.reason,
        task: event.task,
        old: event.old.filter(|_| full),
        new: event.new.filter(|_| full),
    }
}
