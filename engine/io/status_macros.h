// For .cc files only.
#pragma once

#define T2R_RETURN_IF_ERROR(expression)                                     \
  do {                                                                      \
    if (absl::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)

#define T2R_CONCAT_INNER(a, b) a##b
#define T2R_CONCAT(a, b) T2R_CONCAT_INNER(a, b)

// declaration = the value of expression (an absl::StatusOr), or return its status.
#define T2R_ASSIGN_OR_RETURN(declaration, expression) \
  T2R_ASSIGN_OR_RETURN_IMPL(T2R_CONCAT(result_, __LINE__), declaration, expression)
// A declaration and a name cannot stand in parentheses.
// NOLINTBEGIN(bugprone-macro-parentheses)
#define T2R_ASSIGN_OR_RETURN_IMPL(result, declaration, expression) \
  auto result = (expression);                                      \
  if (!result.ok()) return result.status();                        \
  declaration = *std::move(result)
// NOLINTEND(bugprone-macro-parentheses)
