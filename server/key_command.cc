#include "server/key_command.h"

#include <string>

#include "CLI/CLI.hpp"
#include "flags/help.h"
#include "server/api_keys.h"

namespace t2r::server {

int RunKeyCommand(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  CLI::App app("Makes API keys for t2r-server --api-keys.", "t2r-server key");
  flags::Describe(&app);
  app.require_subcommand(1);
  app.footer(
      "Example:\n"
      "  t2r-server key new alice\n"
      "prints a line \"key: ...\" for alice, which nothing keeps, and a line \"entry: ...\" for "
      "the "
      "file.");
  CLI::App* make = app.add_subcommand("new", "Print a new key, and its line in the file");
  std::string name;
  make->add_option("name", name, "Whose key it is: letters, digits, . _ -")
      ->type_name("NAME")
      ->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& e) {
    out << app.help();
    return 0;
  } catch (const CLI::ParseError& e) {
    err << "t2r-server key: " << e.what() << "; see t2r-server key --help\n";
    return 2;
  }
  if (!IsKeyName(name)) {
    err << "t2r-server key: the name is not 1 to 64 letters, digits, . _ or -\n";
    return 2;
  }
  const std::string key = NewKey();
  out << "key: " << key << "\nentry: " << KeyLine(name, key) << "\n";
  return 0;
}

}  // namespace t2r::server
