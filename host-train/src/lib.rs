//! Mote host side.
