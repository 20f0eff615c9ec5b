// Read before everything else when ssh2's native addon is built (see `build:ssh-crypto` in package.json).
//
// The addon's ciphers derive from node::ObjectWrap. In the headers of newer Nodes its destructor takes back a cleanup
// hook, which aborts the whole process when the garbage collector runs while no context is entered ("Assertion failed:
// (env) != nullptr" in RemoveEnvironmentCleanupHook): an agent would end at random, some time after a connection did. nan's
// class of the same name and interface has no such hook.
#ifndef SRC_NODE_OBJECT_WRAP_H_
#define SRC_NODE_OBJECT_WRAP_H_

#include <nan.h>

namespace node {
using Nan::ObjectWrap;
}

#endif
