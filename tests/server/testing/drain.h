// A drain that comes while a turn runs.
#pragma once

#include <gtest/gtest.h>

#include <thread>

#include "absl/time/time.h"
#include "tests/server/testing/test_server.h"

namespace t2r::server {

// Drains a server whose executor is held, step by step until the drain has come and no session is
// left.
inline void DrainWhileRunning(TestServer& server) {
  server.server->StopTaking();
  std::thread drain([&server] { server.model->scheduler->Drain(absl::InfinitePast()); });
  EXPECT_TRUE(WaitUntil([&] {
    server.executor.Allow(1);
    return server.executor.open_slots() == 0;
  }));
  server.executor.AllowAll();
  drain.join();
}

}  // namespace t2r::server
