//! Running a plan: the only room that names timely.

pub mod mesh;
