using Bunraku.Fuzz;

// fuzz-silicon and fuzz-engines are scripts that start this with their word.
return args switch
{
    ["silicon", .. string[] rest] => SiliconCommand.Run(rest),
    ["engines", .. string[] rest] => EnginesCommand.Run(rest),
    _ => Usage(),
};

static int Usage()
{
    Console.Error.WriteLine("usage: fuzz silicon|engines [options]");
    return 2;
}
