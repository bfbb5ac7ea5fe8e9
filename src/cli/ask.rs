//! `highwater run --ask`: statements about the views of a pipeline, while it runs and after its input has ended.
//!
//! They come from the terminal or, one after the other, from a script on standard input. When there are no more the pipeline is asked to stop.
//! Ctrl-C ends a subscription that someone watches, else the pipeline. A script ends with its first mistake.

use super::shell::prompt::Prompt;
use super::tables::{describe, fitting, function_table, table};
use super::{complain, say};
use crate::connector::extensions::Extensions;
use crate::connector::print::text_of;
use crate::error::{Error, Result, nearest};
use crate::plan::type_name;
use crate::runtime::fate::Fate;
use crate::runtime::views::{Event, ViewInfo, Views};
use crate::sql::{self, ColumnInfo, Relation, RelationKind, Request};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a wish to end is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// How often a subscription without changes says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

const HELP: &str = "\
Statements end with a semicolon and may have several lines.

  SELECT …                        the rows of one epoch, the last that is complete
  SUBSCRIBE v                     the rows of a view and then its changes, until Ctrl-C
  SUBSCRIBE (SELECT a FROM v WHERE …)
  SHOW VIEWS    DESCRIBE v        what there is
  SHOW FUNCTIONS LIKE 'array%'    what can be called

  \\format [auto|json]             how rows are shown
  \\wait [5s]                      wait for the end of the pipeline's input, or so long
  \\?                              this
  \\q                              stop the pipeline and leave (or Ctrl-D)";

/// The conversation about a pipeline, on a thread of its own.
pub struct Asked {
    interactive: bool,
    attention: Attention,
    thread: JoinHandle<Result<()>>,
}

/// What the conversation is at; clones are the same.
#[derive(Clone, Default)]
pub struct Attention {
    /// Someone watches what a statement shows.
    watching: Arc<AtomicBool>,
    /// They have seen enough.
    interrupted: Arc<AtomicBool>,
    /// Nothing more is asked.
    left: Arc<AtomicBool>,
}

impl Attention {
    /// Ends what someone watches; false if nobody does.
    pub fn interrupt(&self) -> bool {
        let watching = self.watching.load(Ordering::SeqCst);
        self.interrupted.store(watching, Ordering::SeqCst);
        watching
    }

    /// The process is to end.
    pub fn leave(&self) {
        self.left.store(true, Ordering::SeqCst);
    }

    fn left(&self) -> bool {
        self.left.load(Ordering::SeqCst)
    }
}

impl Asked {
    /// Begins to read statements about `views`, which may call the functions of `extensions`.
    pub fn start(views: Views, fate: &Arc<Fate>, extensions: Extensions) -> Result<Asked> {
        let attention = Attention::default();
        let views = views.knowing(Arc::new(extensions.clone()));
        let fate = Arc::clone(fate);
        let interactive = std::io::stdin().is_terminal();
        let mut conversation = Conversation {
            views,
            extensions,
            interactive,
            json: false,
            pending: String::new(),
            attention: attention.clone(),
        };
        let talk = move || {
            let result = conversation.hold();
            fate.stop();
            result
        };
        let thread = std::thread::Builder::new().name("ask".into()).spawn(talk);
        let thread = thread.map_err(|error| Error::unavailable("no thread is left").caused_by(error))?;
        Ok(Asked { interactive, attention, thread })
    }

    /// What it is at.
    pub fn attention(&self) -> Attention {
        self.attention.clone()
    }

    /// Waits for the last statement, unless the process is to end; the pipeline has, with this `result`.
    ///
    /// # Errors
    /// The mistake that has ended a script.
    pub fn end(self, result: &Result<()>) -> Result<()> {
        if self.attention.left() && !self.thread.is_finished() {
            return Ok(());
        }
        if let (Err(error), true) = (result, self.interactive) {
            // nobody should have to leave first to hear of it
            complain(error);
        }
        self.thread.join().unwrap_or_else(|_| Err(Error::internal("the thread that reads statements panicked")))
    }
}

struct Conversation {
    views: Views,
    extensions: Extensions,
    interactive: bool,
    json: bool,
    /// What is typed and not done.
    pending: String,
    attention: Attention,
}

impl Conversation {
    /// Reads statements and does them, to the last one.
    fn hold(&mut self) -> Result<()> {
        if self.interactive {
            say("Statements end with a semicolon; \\? helps, \\q stops the pipeline.")?;
            let mut prompt = Prompt::new(&self.extensions)?;
            prompt.know(&self.relations());
            while !self.attention.left() {
                let Some(typed) = prompt.read()? else { break };
                if let Err(error) = self.feed(&typed) {
                    self.pending.clear();
                    complain(&error);
                }
            }
            return Ok(());
        }
        let mut line = String::new();
        let unreadable = |error: std::io::Error| Error::unavailable(format!("standard input: {error}"));
        while !self.attention.left() && std::io::stdin().read_line(&mut line).map_err(unreadable)? > 0 {
            self.feed(&line)?;
            line.clear();
        }
        // the last one may do without its semicolon
        let last = std::mem::take(&mut self.pending);
        if self.attention.left() { Ok(()) } else { self.statement(last.trim_start()) }
    }

    /// Takes what was typed, and does what is complete.
    fn feed(&mut self, typed: &str) -> Result<()> {
        if self.pending.trim().is_empty() && typed.trim_start().starts_with('\\') {
            return self.command(typed.trim());
        }
        self.pending.push_str(typed);
        if !self.pending.ends_with('\n') {
            self.pending.push('\n');
        }
        while let Some(end) = sql::statement_end(&self.pending).filter(|_| !self.attention.left()) {
            let rest = self.pending.split_off(end);
            let statement = std::mem::replace(&mut self.pending, rest);
            self.statement(statement.trim_start())?;
        }
        let bare = self.pending.trim();
        if bare.eq_ignore_ascii_case("exit") || bare.eq_ignore_ascii_case("quit") {
            self.attention.leave();
        }
        Ok(())
    }

    /// Does what a line with a backslash says.
    fn command(&mut self, line: &str) -> Result<()> {
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["\\q"] => self.attention.leave(),
            ["\\?"] => say(HELP)?,
            ["\\format"] => say(if self.json { "json" } else { "auto" })?,
            ["\\format", "auto"] => self.json = false,
            ["\\format", "json"] => self.json = true,
            ["\\format", name] => {
                return Err(
                    Error::invalid(format!("there is no format '{name}' here")).help("the formats are auto, json")
                );
            }
            ["\\wait"] => self.wait(Duration::MAX),
            ["\\wait", time] => {
                let time = humantime::parse_duration(time);
                self.wait(time.map_err(|_| Error::invalid("how long?").help("write \\wait 5s, or \\wait alone"))?);
            }
            other => {
                let word = other.first().copied().unwrap_or_default();
                return Err(Error::invalid(format!("there is no command {word}")).help("\\? lists what there is"));
            }
        }
        Ok(())
    }

    /// Waits for the end of the pipeline, at most for `time`.
    fn wait(&self, time: Duration) {
        let mut waited = Duration::ZERO;
        self.watch(true);
        while waited < time && !self.views.ended() && !self.over() {
            let nap = LOOK.min(time - waited);
            std::thread::sleep(nap);
            waited += nap;
        }
        self.watch(false);
    }

    /// Someone begins or ends to watch. In a script Ctrl-C is about all of it.
    fn watch(&self, watching: bool) {
        self.attention.interrupted.store(false, Ordering::SeqCst);
        self.attention.watching.store(watching && self.interactive, Ordering::SeqCst);
    }

    /// True once what is shown is not looked at any more.
    fn over(&self) -> bool {
        self.attention.interrupted.load(Ordering::SeqCst) || self.attention.left()
    }

    fn statement(&mut self, statement: &str) -> Result<()> {
        match sql::request(statement)? {
            Request::Nothing => Ok(()),
            Request::Leave => {
                self.attention.leave();
                Ok(())
            }
            Request::Select(_) => {
                // Ctrl-C is about the answer, not about the pipeline
                self.watch(true);
                let shown = self.select(statement);
                self.watch(false);
                shown
            }
            Request::Subscribe(from) => {
                self.watch(true);
                let told = self.subscribe(&statement[from..]);
                self.watch(false);
                told
            }
            Request::ShowViews | Request::ShowTables => {
                let mut list = table(["view", "columns"]);
                for view in self.views.list() {
                    let columns: Vec<&str> = view.schema.fields().iter().map(|field| field.name().as_str()).collect();
                    list.add_row([&view.name, &columns.join(", ")]);
                }
                say(list.trim_fmt())
            }
            Request::Describe(name) => {
                let relations = self.relations();
                let names = || relations.iter().map(|relation| relation.name.as_str());
                let found = relations.iter().find(|relation| relation.name == name).ok_or_else(|| {
                    let error = Error::invalid(format!("unknown view '{name}'"));
                    match nearest(&name, names()) {
                        Some(near) => error.help(format!("did you mean '{near}'?")),
                        None => error.help("SHOW VIEWS lists what there is"),
                    }
                });
                say(describe(found?))
            }
            Request::ShowFunctions(pattern) => {
                say(function_table(&fitting(pattern.as_deref(), Vec::new(), &self.extensions)?))
            }
            Request::Declare(_) | Request::Insert | Request::Explain | Request::Drop(_) => Err(Error::invalid(
                "a pipeline that runs can be asked, but not changed",
            )
            .help("SELECT, SUBSCRIBE, SHOW VIEWS and DESCRIBE are about its views; change its file, and run it again")),
        }
    }

    fn select(&self, statement: &str) -> Result<()> {
        let answer = self.views.query(statement)?;
        let rows = answer.rows();
        let last = format!("{rows} row{}, epoch {}, watermark {}", plural(rows), answer.epoch, answer.watermark);
        let batch = answer.whole()?;
        let text = text_of(&batch, false, self.json)?;
        match self.json {
            true => {
                print_text(&text)?;
                eprintln!("{last}");
                Ok(())
            }
            false => say(format!("{text}{last}")),
        }
    }

    fn subscribe(&self, what: &str) -> Result<()> {
        let mut subscription = self.views.subscribe(what)?;
        if self.interactive {
            eprintln!("Ctrl-C ends this; the pipeline goes on");
        }
        let mut silent = Duration::ZERO;
        let mut changed = false;
        while !subscription.ended() && !self.over() {
            match subscription.poll(LOOK)? {
                None => silent += LOOK,
                Some(Event::Changes { rows, .. }) => {
                    changed = true;
                    print_text(&text_of(&rows, true, self.json)?)?;
                }
                Some(Event::Progress { epoch, watermark }) => {
                    if changed || silent >= PROGRESS_EVERY || subscription.ended() {
                        let line = format!("-- epoch {epoch}, watermark {watermark}");
                        if self.json {
                            eprintln!("{line}")
                        } else {
                            say(line)?
                        }
                        (changed, silent) = (false, Duration::ZERO);
                    }
                }
            }
        }
        Ok(())
    }

    /// The views, as a person is told of them.
    fn relations(&self) -> Vec<Relation> {
        self.views.list().iter().map(relation).collect()
    }
}

fn relation(view: &ViewInfo) -> Relation {
    let columns = view.schema.fields().iter().map(|field| ColumnInfo {
        name: field.name().clone(),
        data_type: type_name(field.data_type()),
        nullable: field.is_nullable(),
        computed: None,
        metadata: None,
    });
    Relation {
        name: view.name.clone(),
        kind: RelationKind::Served,
        connector: None,
        columns: columns.collect(),
        watermark: None,
        primary_key: Vec::new(),
        read: false,
        written: false,
        place: "served".into(),
    }
}

/// Writes lines that have their ends.
fn print_text(text: &str) -> Result<()> {
    match text.strip_suffix('\n') {
        Some(text) => say(text),
        None => Ok(()),
    }
}

fn plural(rows: usize) -> &'static str {
    if rows == 1 { "" } else { "s" }
}
