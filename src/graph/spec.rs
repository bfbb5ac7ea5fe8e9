//! The fields of a definition: what the parser takes, the JSON Schema lists and docs/graph.md explains.

use super::shape::{Field, Object, Shape};
use crate::connector::Takes;
use crate::sql::SETTINGS;

const fn must(name: &'static str, shape: Shape, about: &'static str) -> Field {
    Field { name, shape, required: true, about }
}

const fn may(name: &'static str, shape: Shape, about: &'static str) -> Field {
    Field { name, shape, required: false, about }
}

const fn object(name: &'static str, about: &'static str, fields: &'static [Field]) -> Object {
    Object { name, about, fields, one_of: &[] }
}

/// A definition.
pub(super) const DEFINITION: Object = object(
    "a definition",
    "A Highwater pipeline: sources, steps, sinks",
    &[
        may("pipeline", Shape::Object(&PIPELINE), "the pipeline's name and settings"),
        must("sources", Shape::List(&Shape::Object(&SOURCE)), "the tables that are read"),
        may("steps", Shape::List(&Shape::Step(STEPS)), "what is done with the rows; the order does not matter"),
        must("sinks", Shape::List(&Shape::Object(&SINK)), "the tables that are written"),
    ],
);

pub(super) const PIPELINE: Object = object("the pipeline", "The pipeline's name and settings", SETTING_FIELDS);

const SETTING_FIELDS: &[Field] = &[
    may("name", Shape::Scalar, SETTINGS[0].about),
    setting(1),
    setting(2),
    setting(3),
    setting(4),
    setting(5),
    setting(6),
    setting(7),
    setting(8),
    setting(9),
    setting(10),
    setting(11),
];

/// The settings are those of SQL, which calls the first one `pipeline.name`.
const fn setting(position: usize) -> Field {
    let shape = match SETTINGS[position].takes {
        Takes::Choice(words) => Shape::Choice(words),
        Takes::Duration => Shape::Duration,
        _ => Shape::Scalar,
    };
    may(SETTINGS[position].name, shape, SETTINGS[position].about)
}

const _: () = assert!(PIPELINE.fields.len() == SETTINGS.len());

const NAME: Field = must("name", Shape::Name, "what others call it in their `from`");
const CONNECTOR: Field = must("connector", Shape::Scalar, "what kind of table it is");
const PRIMARY_KEY: Field = may("primary_key", Shape::Names, "the columns whose newest row counts");
const OPTIONS: Field = may("options", Shape::Options, "the connector's and the format's options");

pub(super) const SOURCE: Object = object(
    "a source",
    "A table that is read",
    &[
        NAME,
        CONNECTOR,
        must("columns", Shape::Map(&Shape::Either(&Shape::Type, &Shape::Object(&COMPUTED))), "its columns, in order"),
        may("watermark", Shape::Object(&WATERMARK), "which column is event time, and how late rows may be"),
        PRIMARY_KEY,
        OPTIONS,
    ],
);

const COMPUTED: Object = object(
    "a computed column",
    "A column that is computed from the others",
    &[must("as", Shape::Expression, "its value, from the other columns")],
);

const WATERMARK: Object = Object {
    name: "a watermark",
    about: "The event-time column and a promise about it",
    fields: &[
        must("column", Shape::Name, "the event-time column"),
        may("delay", Shape::Duration, "how late rows may be"),
        may("as", Shape::Expression, "the watermark that a row stands for"),
    ],
    one_of: &["delay", "as"],
};

pub(super) const SINK: Object = object(
    "a sink",
    "A table that is written",
    &[
        must("name", Shape::Name, "what it is called in messages and plans"),
        may("from", Shape::Names, "the sources and steps whose rows it takes; none if only late rows go into it"),
        CONNECTOR,
        may(
            "columns",
            Shape::Map(&Shape::Type),
            "the columns that it takes of its input, by name; all, if there are none",
        ),
        PRIMARY_KEY,
        OPTIONS,
        may("emit", Shape::Choice(&["final", "changes", "on_window_close"]), "when results leave"),
        may(
            "allowed_lateness",
            Shape::Duration,
            "how long windows stay open after the watermark has reached their end",
        ),
        may("late_into", Shape::Name, "the sink that takes the rows that come too late for their windows"),
    ],
);

const VALUES: Shape = Shape::Either(&Shape::Names, &Shape::Map(&Shape::Expression));

/// What a join may be.
pub(super) const JOINS: [&str; 6] = ["inner", "left", "right", "full", "semi", "anti"];

/// The operators.
pub(super) const STEPS: &[Object] = &[
    object(
        "filter",
        "Keeps the rows for which a condition is true",
        &[must("where", Shape::Expression, "the condition")],
    ),
    object(
        "project",
        "Makes new columns",
        &[
            must("columns", VALUES, "the columns: names of the input's, or new names with their values"),
            may(
                "keep",
                Shape::Names,
                "the input's columns that stay beside the new ones: a list, or `all`; none by default",
            ),
        ],
    ),
    object(
        "flat_map",
        "Makes a row of each element of a list",
        &[
            must("unnest", Shape::Expression, "the list, such as `split_words(line)`"),
            must("as", Shape::Name, "the column that holds the element"),
            may("keep", Shape::Names, "the input's columns that stay beside it: a list, or `all`, the default"),
        ],
    ),
    object(
        "key_by",
        "Says by which key the following aggregates go",
        &[must("key", VALUES, "the key's columns, or new names with their values")],
    ),
    Object {
        name: "window",
        about: "Puts rows into windows of event time: adds window_start, window_end and window_time",
        fields: &[
            must("time", Shape::Name, "the event-time column"),
            may(
                "tumble",
                Shape::Either(&Shape::Duration, &Shape::Object(&TUMBLE)),
                "windows of one size, one after the other",
            ),
            may("hop", Shape::Object(&HOP), "windows of one size that overlap"),
            may("cumulate", Shape::Object(&CUMULATE), "windows that grow"),
            may("session", Shape::Duration, "windows of a key, which end when none of its rows came for so long"),
        ],
        one_of: &["tumble", "hop", "cumulate", "session"],
    },
    object(
        "aggregate",
        "One row for each key, and for each window if the rows are in windows",
        &[
            may(
                "key",
                VALUES,
                "the key's columns, or new names with their values; else the key of `key_by`, else none",
            ),
            must("aggregates", Shape::Map(&Shape::Expression), "new names with their values, such as `count(*)`"),
        ],
    ),
    object(
        "top_n",
        "The first rows of each window, or of each key in it",
        &[
            may("key", VALUES, "the key's columns; else the key of `key_by`, else none"),
            must("order_by", Shape::Expression, "what they are ordered by, such as `total DESC, customer`"),
            must("rows", Shape::Count, "how many rows stay"),
            may("rank", Shape::Name, "a new column with their numbers, from 1"),
        ],
    ),
    object(
        "dedup",
        "The first row of each key in each window",
        &[
            may("key", VALUES, "the columns whose rows are the same; else the key of `key_by`"),
            must("order_by", Shape::Expression, "what decides which row is the first"),
        ],
    ),
    object(
        "join",
        "The pairs of rows of two inputs in the same window, or of a stream and a table that ends",
        &[
            may(
                "kind",
                Shape::Choice(&JOINS),
                "which rows without a partner stay; `inner`, the default: none; `semi` and `anti`: only rows of the first input leave, \
                 those in a pair or in none",
            ),
            must("on", Shape::Expression, "what is true of a pair, such as `orders.id = payments.order_id`"),
            may(
                "as_of",
                Shape::Expression,
                "the event time of the first input, such as `orders.ordered`: its rows meet the version that the second one, a table with a key, had then; \
                 with `proctime()` a table outside is asked; for `inner` and `left`",
            ),
            may(
                "match",
                Shape::Expression,
                "event times to compare, such as `trades.ts >= quotes.ts`: a row meets the newest row of the second input for which that holds; for \
                 `inner` and `left`",
            ),
            may(
                "columns",
                Shape::Map(&Shape::Expression),
                "the columns, beside window_start and window_end; `semi` and `anti` may leave them out and give those of the first input",
            ),
        ],
    ),
    object(
        "operator",
        "An operator that the program brings along",
        &[
            must("call", Shape::Name, "its name"),
            may(
                "key",
                Shape::Names,
                "the columns by which its rows find their worker; else the key of `key_by`, else all go to one",
            ),
        ],
    ),
    object("union", "The rows of all inputs, whose columns are matched by name", &[]),
    object("distinct", "Each row once", &[]),
];

const SIZE: Field = must("size", Shape::Duration, "how long a window is");
const OFFSET: Field = may("offset", Shape::Duration, "how far windows are moved on");

const TUMBLE: Object = object("a tumble", "Windows of one size, one after the other", &[SIZE, OFFSET]);

const HOP: Object = object(
    "a hop",
    "Windows of one size that overlap",
    &[SIZE, must("slide", Shape::Duration, "how far apart windows start"), OFFSET],
);

const CUMULATE: Object = object(
    "a cumulate",
    "Windows that grow by a step until they have their size",
    &[
        must("size", Shape::Duration, "how long the longest window is, a multiple of the step"),
        must("step", Shape::Duration, "by how much windows grow"),
        OFFSET,
    ],
);
