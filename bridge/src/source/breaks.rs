//! stub
use clbridge_schemas::ids::Digest; use clbridge_schemas::lustre::View;
#[derive(Debug,Clone,Copy)] pub enum Why{Silence}
pub struct Break{pub verify:(u64,Digest),pub why:Why}
pub struct Breaks; impl Breaks{ pub fn new(_:Option<()>)->Self{Self} pub fn before(&mut self,_:&View<'_>,_:bool)->Option<Break>{None} }
