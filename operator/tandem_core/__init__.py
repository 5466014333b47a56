"""Pure domain shared by planes. Imports only `tandem_api`; reads no clock, no network, no random source."""
