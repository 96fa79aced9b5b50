namespace Bunraku.Sessions;

/// <summary>
/// How messages name things, for programs whose users do not see the properties of <see cref="VmOptions"/>: a command line says "--memory". Immutable.
/// </summary>
public sealed record VmWords
{
    /// <summary>
    /// Turns the name of a property of <see cref="VmOptions"/> or <see cref="VmBuilder"/> into the user's word for it. The default leaves it as it is.
    /// </summary>
    public Func<string, string> Option { get; init; } = name => name;

    /// <summary>What explains why engines cannot run on this host: the end of a message.</summary>
    public string EnginesAdvice { get; init; } = "their Probe() says why";

    /// <summary>What a user can do where the files of a guest cannot be had: the end of a message.</summary>
    public string GuestAdvice { get; init; } = "a kernel of your own can be booted as well, and the guest 'hello' needs nothing";
}
