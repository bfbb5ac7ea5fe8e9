//! stub
use super::{Case, Input, Measured};
use super::meter::{Preparation, Spent};
use crate::error::{Error, Result};
pub struct Topics;
impl Topics {
    pub fn new(_: Option<&str>) -> Result<Self> { Err(Error::internal("stub")) }
    pub fn fill(&mut self, _: &Case) -> Result<Input> { Err(Error::internal("stub")) }
    pub fn measure(&mut self, _: &Case, _: usize) -> Result<Measured> { Err(Error::internal("stub")) }
}
pub fn consume(_: &str, _: &str, _: Preparation) -> Result<Spent> { Err(Error::internal("stub")) }
