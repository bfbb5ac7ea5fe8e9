//! Scalar functions that a program brings along.

use crate::error::{Error, Result};
use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion_common::{DataFusionError, plan_err};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// What computes a column: the arguments' columns, all of one length, to one of that length.
type Compute = dyn Fn(&[ArrayRef]) -> Result<ArrayRef> + Send + Sync;

/// A function of SQL expressions: a column of values from columns of arguments, a batch at a time.
///
/// The same arguments must give the same value, always: a replay asks again.
///
/// ```
/// use arrow::array::{ArrayRef, AsArray, BooleanArray};
/// use arrow::datatypes::DataType;
/// use highwater::expr::ScalarFunction;
/// use std::sync::Arc;
///
/// let shouts = ScalarFunction::new("shouts", [DataType::Utf8], DataType::Boolean, |arguments| {
///     let texts = arguments[0].as_string::<i32>();
///     Ok(Arc::new(texts.iter().map(|text| Some(text?.ends_with('!'))).collect::<BooleanArray>()) as ArrayRef)
/// });
/// assert_eq!(shouts.name(), "shouts");
/// ```
#[derive(Clone)]
pub struct ScalarFunction {
    name: String,
    signature: Signature,
    arguments: Vec<DataType>,
    returns: DataType,
    compute: Arc<Compute>,
    digest: Option<[u8; 32]>,
}

impl ScalarFunction {
    /// The function that SQL calls `name`, in small letters, of at least one argument. Arguments are cast to the types `arguments` where SQL does that by itself.
    pub fn new(
        name: impl Into<String>,
        arguments: impl IntoIterator<Item = DataType>,
        returns: DataType,
        compute: impl Fn(&[ArrayRef]) -> Result<ArrayRef> + Send + Sync + 'static,
    ) -> Self {
        let arguments: Vec<DataType> = arguments.into_iter().collect();
        let signature = Signature::user_defined(Volatility::Immutable);
        let (name, compute) = (name.into().to_lowercase(), Arc::new(compute));
        ScalarFunction { name, signature, arguments, returns, compute, digest: None }
    }

    /// The same, of which the plan's fingerprint has `digest`: that of the code which all processes must have.
    pub fn with_digest(mut self, digest: [u8; 32]) -> Self {
        self.digest = Some(digest);
        self
    }

    /// What SQL calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The types of its arguments.
    pub fn arguments(&self) -> &[DataType] {
        &self.arguments
    }

    /// The type of what it gives.
    pub fn returns(&self) -> &DataType {
        &self.returns
    }

    /// The digest of its code, if it has one.
    pub(super) fn digest(&self) -> Option<[u8; 32]> {
        self.digest
    }

    /// The function as the planner takes it.
    pub(crate) fn planned(&self) -> ScalarUDF {
        ScalarUDF::from(self.clone())
    }
}

impl fmt::Debug for ScalarFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:?}) -> {}", self.name, self.arguments, self.returns)
    }
}

// A name has one meaning in a pipeline.
impl PartialEq for ScalarFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for ScalarFunction {}

impl Hash for ScalarFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for ScalarFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> datafusion_common::Result<DataType> {
        Ok(self.returns.clone())
    }

    fn coerce_types(&self, given: &[DataType]) -> datafusion_common::Result<Vec<DataType>> {
        becomes_all(&self.name, given, &self.arguments)
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> datafusion_common::Result<ColumnarValue> {
        let rows = call.number_rows;
        let arguments =
            call.args.into_iter().map(|argument| argument.into_array(rows)).collect::<Result<Vec<_>, _>>()?;
        let values = (self.compute)(&arguments).map_err(|error| DataFusionError::External(Box::new(error)))?;
        checked(&format!("{}()", self.name), &values, &self.returns, rows, "rows")
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(ColumnarValue::Array(values))
    }
}

/// The types that the arguments of a call of `name` are cast to.
pub(super) fn becomes_all(
    name: &str,
    given: &[DataType],
    wanted: &[DataType],
) -> datafusion_common::Result<Vec<DataType>> {
    let takes = wanted.len();
    if given.len() != takes {
        return plan_err!("{name}() takes {takes} argument{}, not {}", if takes == 1 { "" } else { "s" }, given.len());
    }
    match given.iter().zip(wanted).position(|(given, wanted)| !becomes(given, wanted)) {
        Some(at) => plan_err!("argument {} of {name}() is {}, not {}", at + 1, wanted[at], given[at]),
        None => Ok(wanted.to_vec()),
    }
}

/// Refuses a column that `what` should not have given.
pub(super) fn checked(what: &str, values: &ArrayRef, wanted: &DataType, rows: usize, of: &str) -> Result<()> {
    let (found, given) = (values.data_type(), values.len());
    match given == rows && found == wanted {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "{what} gave {given} values of type {found} for {rows} {of}, not as many of type {wanted}"
        ))),
    }
}

/// True if SQL casts one type to the other by itself: between texts, between numbers, from NULL.
fn becomes(given: &DataType, wanted: &DataType) -> bool {
    let text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let bytes = |t: &DataType| matches!(t, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    let time = |t: &DataType| matches!(t, DataType::Timestamp(..) | DataType::Date32);
    given == wanted
        || given.is_null()
        || (text(given) && text(wanted))
        || (bytes(given) && bytes(wanted))
        || (time(given) && time(wanted))
        || (given.is_numeric() && wanted.is_numeric())
        || (given.is_nested() && wanted.is_nested() && arrow::compute::can_cast_types(given, wanted))
}
