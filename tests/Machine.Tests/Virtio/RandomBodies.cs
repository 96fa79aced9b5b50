namespace Bunraku.Machine.Tests.Virtio;

/// <summary>Bodies of requests that a hostile client makes.</summary>
internal static class RandomBodies
{
    /// <summary>At times with one byte changed, or shorter.</summary>
    public static byte[] Spoilt(Random random, byte[] body)
    {
        if (random.Next(5) == 0 && body.Length > 0) body[random.Next(body.Length)] = (byte)random.Next(256);
        return random.Next(10) == 0 ? body[..random.Next(body.Length + 1)] : body;
    }

    /// <summary>Nothing but chance.</summary>
    public static byte[] Any(Random random)
    {
        byte[] bytes = new byte[random.Next(10) == 0 ? random.Next(5000) : random.Next(100)];
        random.NextBytes(bytes);
        return bytes;
    }
}
