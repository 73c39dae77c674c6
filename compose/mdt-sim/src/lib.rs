//! compose/mdt-sim
