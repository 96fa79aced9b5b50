namespace Bunraku.Engines;

/// <summary>Part of a machine cannot be saved; the message names it and says why.</summary>
public sealed class CannotSaveException : Exception
{
    /// <param name="id"><see cref="IStateful.Id"/> of the part.</param>
    /// <param name="why">The rest of the sentence.</param>
    public CannotSaveException(string id, string why) : base($"{id} cannot be saved: {why}")
    {
    }
}

/// <summary>A saved state does not fit the machine that is to take it, or is damaged. The message is one line for the user.</summary>
public sealed class StateFormatException : Exception
{
    /// <param name="message">What does not fit, and where.</param>
    public StateFormatException(string message) : base(message)
    {
    }

    /// <param name="message">What does not fit, and where.</param>
    /// <param name="inner">What the reader stumbled over.</param>
    public StateFormatException(string message, Exception inner) : base(message, inner)
    {
    }
}
