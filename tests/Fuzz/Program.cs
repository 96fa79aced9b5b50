using Bunraku.Fuzz;

// fuzz-silicon, fuzz-engines, fuzz-devices, fuzz-nested, fuzz-snapshots, fuzz-migrations, fuzz-debugger and fuzz-states are scripts that start this with
// their word.
return args switch
{
    ["silicon", .. string[] rest] => SiliconCommand.Run(rest),
    ["engines", .. string[] rest] => EnginesCommand.Run(rest),
    ["devices", .. string[] rest] => DevicesCommand.Run(rest),
    ["nested", .. string[] rest] => NestedCommand.Run(rest),
    ["snapshots", .. string[] rest] => SnapshotsCommand.Run(rest),
    ["migrations", .. string[] rest] => MigrationsCommand.Run(rest),
    ["debugger", .. string[] rest] => DebuggerCommand.Run(rest),
    ["states", .. string[] rest] => StatesCommand.Run(rest),
    _ => Usage(),
};

static int Usage()
{
    Console.Error.WriteLine("usage: fuzz silicon|engines|devices|nested|snapshots|migrations|debugger|states [options]");
    return 2;
}
