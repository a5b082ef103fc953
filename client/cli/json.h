// What --json prints: each function gives one line, without the newline.
#ifndef T2R_CLIENT_CLI_JSON_H_
#define T2R_CLIENT_CLI_JSON_H_

#include <string>

#include "client/cli/translation.h"
#include "client/load/load.h"
#include "client/load/positions.h"
#include "client/types.h"

namespace t2r::client {

std::string ToJson(const Event& event);
// line: of the source, from 1; text: the whole translation.
std::string ToJson(size_t line, const std::string& source, const std::string& text,
                   const Translated& translated);
std::string ToJson(const ScoreResult& result, double total, double perplexity);
std::string TokensToJson(const TokenIds& tokens);
std::string TextToJson(const std::string& text);
std::string ToJson(const ModelInfo& info);
std::string ToJson(const SessionInfo& session);
std::string ToJson(const LoadResult& result, const LoadOptions& options);
std::string ToJson(const PositionResult& result);

}  // namespace t2r::client

#endif  // T2R_CLIENT_CLI_JSON_H_
