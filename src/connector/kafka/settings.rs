//! What a topic's settings say, as far as this client may ask.

use super::client::{ANSWER_WAIT, Watch, not_created};
use super::config::Connection;
use crate::connector::Context;
use crate::error::Result;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use std::collections::HashMap;
use tracing::info;

/// A client for questions that are no client's own business.
pub(super) fn admin(connection: &Connection, context: &Context) -> Result<AdminClient<Watch>> {
    let admin: AdminClient<Watch> =
        connection.client(context, &[])?.create_with_context(connection.watch(context)).map_err(not_created)?;
    if let Some(tokens) = connection.tokens(context) {
        tokens.give(admin.inner())?;
    }
    Ok(admin)
}

/// How patient such a client is.
pub(super) fn patience() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(ANSWER_WAIT)).request_timeout(Some(ANSWER_WAIT))
}

/// The settings of `topic` by name; none if the cluster does not tell, which an ACL may be the reason for.
pub(super) fn settings_of(
    topic: &str,
    connection: &Connection,
    context: &Context,
) -> Result<Option<HashMap<String, String>>> {
    let asked = [ResourceSpecifier::Topic(topic)];
    let answer = futures_executor::block_on(admin(connection, context)?.describe_configs(&asked, &patience()));
    let told = answer.map_err(|error| error.to_string()).and_then(|mut answer| match answer.pop() {
        Some(told) => told.map_err(|code| code.to_string()),
        None => Err("no answer".to_owned()),
    });
    Ok(match told {
        Ok(told) => Some(told.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect()),
        Err(reason) => {
            info!(topic, reason, "kafka: its settings are not told (ACL DescribeConfigs); going on without them");
            None
        }
    })
}
