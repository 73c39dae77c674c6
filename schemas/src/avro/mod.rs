//! Records as Avro.
