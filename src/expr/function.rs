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
        ScalarFunction { name: name.into().to_lowercase(), signature, arguments, returns, compute: Arc::new(compute) }
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
        let takes = self.arguments.len();
        if given.len() != takes {
            return plan_err!(
                "{}() takes {takes} argument{}, not {}",
                self.name,
                if takes == 1 { "" } else { "s" },
                given.len()
            );
        }
        let unfit = given.iter().zip(&self.arguments).position(|(given, wanted)| !becomes(given, wanted));
        match unfit {
            Some(at) => {
                plan_err!("argument {} of {}() is {}, not {}", at + 1, self.name, self.arguments[at], given[at])
            }
            None => Ok(self.arguments.clone()),
        }
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> datafusion_common::Result<ColumnarValue> {
        let rows = call.number_rows;
        let arguments =
            call.args.into_iter().map(|argument| argument.into_array(rows)).collect::<Result<Vec<_>, _>>()?;
        let values = (self.compute)(&arguments).map_err(|error| DataFusionError::External(Box::new(error)))?;
        if values.len() != rows || *values.data_type() != self.returns {
            let (found, rows_found) = (values.data_type(), values.len());
            let error = Error::invalid(format!(
                "{}() gave {rows_found} values of type {found} for {rows} rows, not as many of type {}",
                self.name, self.returns
            ));
            return Err(DataFusionError::External(Box::new(error)));
        }
        Ok(ColumnarValue::Array(values))
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
