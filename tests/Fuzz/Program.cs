using Bunraku.Fuzz;

// fuzz-silicon, fuzz-engines and fuzz-devices are scripts that start this with their word.
return args switch
{
    ["silicon", .. string[] rest] => SiliconCommand.Run(rest),
    ["engines", .. string[] rest] => EnginesCommand.Run(rest),
    ["devices", .. string[] rest] => DevicesCommand.Run(rest),
    _ => Usage(),
};

static int Usage()
{
    Console.Error.WriteLine("usage: fuzz silicon|engines|devices [options]");
    return 2;
}
